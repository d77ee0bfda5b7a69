//! `baseline --coverage`: which of the 48 hours have enough samples, as a picture in letters and as JSON.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use super::{Known, standing_json, title};
use crate::baseline::{
    ENOUGH_SAMPLES,
    figures::Figures,
    slot::{DayType, Slot},
};

const RULE: &str = "0     6     12    18     hour of day";

fn samples(slots: &BTreeMap<Slot, Figures>, slot: Slot) -> i64 {
    slots.get(&slot).map_or(0, |figures| figures.samples)
}

fn enough(slots: &BTreeMap<Slot, Figures>) -> usize {
    Slot::hours()
        .filter(|slot| samples(slots, *slot) >= ENOUGH_SAMPLES)
        .count()
}

/// A letter for each hour of a kind of day.
fn letters(slots: &BTreeMap<Slot, Figures>, day: DayType) -> String {
    (0..24)
        .map(|hour| match samples(slots, Slot::hour_of(day, hour)) {
            0 => '.',
            ENOUGH_SAMPLES.. => '#',
            _ => '+',
        })
        .collect()
}

pub(super) fn print(out: &mut impl Write, known: &Known) -> io::Result<()> {
    if known.operations.is_empty() {
        return Ok(());
    }
    let full = known
        .operations
        .values()
        .filter(|slots| enough(slots) == Slot::HOURS)
        .count();
    writeln!(
        out,
        "  # at least {ENOUGH_SAMPLES} samples   + fewer   . none\n  {full} of {} operations have enough in all {} hours",
        known.operations.len(),
        Slot::HOURS
    )?;
    for (operation, slots) in &known.operations {
        writeln!(
            out,
            "\n  {}: {} of {}\n           {RULE}",
            title(operation),
            enough(slots),
            Slot::HOURS
        )?;
        for day in [DayType::Weekday, DayType::Weekend] {
            writeln!(out, "  {:8} {}", day.name(), letters(slots, day))?;
        }
    }
    Ok(())
}

pub(super) fn as_json(known: &Known) -> serde_json::Value {
    let operations: Vec<serde_json::Value> = known
        .operations
        .iter()
        .map(|(operation, slots)| {
            let hours: Vec<serde_json::Value> = Slot::hours()
                .map(|slot| {
                    let samples = samples(slots, slot);
                    serde_json::json!({
                        "day_type": slot.day_type().map(DayType::name), "hour": slot.hour(), "samples": samples,
                        "enough": samples >= ENOUGH_SAMPLES,
                    })
                })
                .collect();
            serde_json::json!({
                "service": *operation.service, "operation": *operation.name, "slots_with_enough": enough(slots),
                "slots": hours,
            })
        })
        .collect();
    let mut json = standing_json(known);
    json["operations"] = operations.into();
    json
}
