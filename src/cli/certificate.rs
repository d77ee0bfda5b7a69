//! `verify --certificate` and `verify --check`: a certificate in words, and an earlier one held against what is stored now.

use std::{io::Write, path::Path};

use serde_json::json;

use super::{Exit, UsageError, database::Database, terminal};
use crate::{
    verify::certificate::{self, Certificate, Digests},
    window::{Window, rfc3339},
};

/// Prints a certificate in words.
pub(super) fn print(out: &mut impl Write, certificate: &Certificate) -> std::io::Result<()> {
    let Certificate { of, digests, .. } = certificate;
    let title = match certificate.holds {
        true => "CERTIFICATE",
        false => "NO CERTIFICATE: it does not hold",
    };
    writeln!(out, "{title}")?;
    writeln!(out, "dataset     {}", of.dataset)?;
    let tenant = of.tenant.as_ref();
    let tenant = tenant.map_or_else(String::new, |tenant| format!(", tenant {tenant}"));
    writeln!(out, "source      {}{tenant}", of.source)?;
    let query = of.query.as_deref().unwrap_or("every trace");
    writeln!(out, "collects    {query}; detail {}", of.detail)?;
    writeln!(out, "range       {} … {}", digests.from, digests.to)?;
    writeln!(
        out,
        "verified    {}, by listing everything again: {} requests",
        rfc3339(certificate.verified_at.timestamp()),
        certificate.verified_by_requests
    )?;
    for stretch in &certificate.verdicts {
        writeln!(
            out,
            "verdict     {} … {}  {} {}",
            stretch.from,
            stretch.to,
            super::verify::in_hours(stretch.hours, stretch.seconds),
            stretch.verdict
        )?;
    }
    for not in &certificate.not_verified_yet {
        writeln!(out, "not yet     {}", super::verify::not_verified(not))?;
    }
    for covered in &certificate.covered {
        for [from, to] in &covered.stretches {
            writeln!(out, "covered     {from} … {to}  {}", covered.look)?;
        }
    }
    for run in &certificate.collected_by {
        writeln!(
            out,
            "collected   run {} ({}, submitted {}): {} requests, {} windows, {} splits, {} retries, {} traces",
            run.run,
            run.kind,
            rfc3339(run.submitted_at.timestamp()),
            run.requests,
            run.windows,
            run.splits,
            run.retries,
            run.traces
        )?;
    }
    writeln!(out, "traces      {}", digests.traces)?;
    for day in &digests.days {
        writeln!(
            out,
            "day         {}  {:>10}  {}",
            day.day, day.traces, day.sha256
        )?;
    }
    writeln!(out, "all days    sha256      {}", digests.sha256)?;
    if certificate.holds {
        writeln!(out, "claims      {}", certificate.claims)?;
    }
    for not in &certificate.does_not_claim {
        writeln!(out, "does not claim: {not}")?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<(Digests, Window), UsageError> {
    let named = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| UsageError(format!("cannot read `{named}`: {error}")))?;
    Digests::of_certificate(&text).map_err(|reason| {
        UsageError(format!(
            "`{named}` is no certificate in JSON, as `verify --deep --certificate --json` prints it: {reason}"
        ))
    })
}

/// Holds the digests of an earlier certificate against what is stored now. Tempo is not asked.
pub(super) async fn check(
    database: &Database,
    dataset: &str,
    path: &Path,
    as_json: bool,
) -> anyhow::Result<Exit> {
    let (then, range) = read(path)?;
    let now = certificate::digests(&database.pool, dataset, range).await?;
    let differences = then.differences(&now);
    let same = then.sha256 == now.sha256 && differences.is_empty();
    let mut out = terminal::stdout();
    if as_json {
        let json = json!({
            "dataset": dataset, "from": then.from, "to": then.to, "same": same, "differences": differences,
            "sha256_then": then.sha256, "sha256_now": now.sha256,
        });
        writeln!(out, "{}", serde_json::to_string_pretty(&json)?)?;
    } else {
        for day in &differences {
            writeln!(
                out,
                "{dataset}: {} differs: {} traces then, {} now",
                day.day, day.traces_then, day.traces_now
            )?;
        }
        let what = match same {
            true => "nothing was lost or changed since",
            false => "it is not what was certified",
        };
        writeln!(out, "{dataset}: {} … {}: {what}", then.from, then.to)?;
    }
    Ok(match same {
        true => Exit::Complete,
        false => Exit::Gaps,
    })
}
