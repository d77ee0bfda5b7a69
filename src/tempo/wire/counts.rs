//! Answers to counts and averages: JSON whatever is asked for, a few thousand samples at most.

use serde::{
    Deserializer,
    de::{DeserializeSeed as _, MapAccess},
};

use super::{
    DecodeError,
    json::{Each, Elements, Members, Number, Object, ignore},
};
use crate::plan::density::{Histogram, Step};

/// More than this is not counted in a step, so that sums of counts fit whatever a server claims.
const MOST_COUNTED: u64 = 1 << 40;

/// Reads the answer to a count of root spans. `None`: the server returned no series, which says nothing.
///
/// # Errors
/// If the body is not the JSON document expected, or has more samples than that.
pub fn decode_count(
    body: &[u8],
    step_s: i64,
    most: usize,
) -> Result<Option<Histogram>, DecodeError> {
    let answer = Series::read(body, most, true)?;
    if answer.series == 0 {
        return Ok(None);
    }
    let steps = answer.samples.into_iter().filter_map(|sample| {
        // Samples are stamped at the end of their interval; a value of zero is left out.
        let start = i64::try_from(sample.timestamp_ms / 1_000).ok()? - step_s;
        (sample.value > 0.0).then(|| Step {
            start,
            seconds: step_s,
            count: (sample.value.round() as u64).min(MOST_COUNTED),
        })
    });
    let mut steps: Vec<Step> = steps.collect();
    steps.sort_unstable_by_key(|step| step.start);
    steps.dedup_by_key(|step| step.start);
    Ok(Some(Histogram { steps }))
}

/// Reads the answer to a question for one average, in seconds. `None`: the server had nothing to say.
///
/// # Errors
/// If the body is not the JSON document expected, or has more samples than that.
pub fn decode_average(body: &[u8], most: usize) -> Result<Option<f64>, DecodeError> {
    let answer = Series::read(body, most, false)?;
    let values = answer.samples.iter().map(|sample| sample.value);
    let values: Vec<f64> = values
        .filter(|value| value.is_finite() && *value > 0.0)
        .collect();
    Ok((!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64))
}

/// The series of an answer.
struct Series {
    series: usize,
    /// Whether only the first one is asked about.
    first: bool,
    samples: Vec<Sample>,
    most: usize,
    too_many: bool,
}

#[derive(Default)]
struct Sample {
    timestamp_ms: u64,
    value: f64,
    is_stamped: bool,
}

impl Series {
    fn read(body: &[u8], most: usize, first: bool) -> Result<Self, DecodeError> {
        let mut answer = Self {
            series: 0,
            first,
            samples: Vec::new(),
            most,
            too_many: false,
        };
        let read = super::json::read(body, &mut Answer(&mut answer));
        match read {
            Ok(()) => Ok(answer),
            Err(_) if answer.too_many => Err(DecodeError::MoreSamples(most)),
            Err(error) => Err(DecodeError::Json(error)),
        }
    }
}

struct Answer<'s>(&'s mut Series);

impl<'de> Members<'de> for Answer<'_> {
    fn member<A: MapAccess<'de>>(&mut self, name: &str, value: &mut A) -> Result<(), A::Error> {
        match name {
            "series" => value.next_value_seed(Each(self.0)),
            _ => ignore(value),
        }
    }
}

impl<'de> Elements<'de> for Series {
    fn element<D: Deserializer<'de>>(&mut self, element: D) -> Result<(), D::Error> {
        self.series += 1;
        Object(&mut One(self)).deserialize(element).map(drop)
    }
}

struct One<'s>(&'s mut Series);

impl<'de> Members<'de> for One<'_> {
    fn member<A: MapAccess<'de>>(&mut self, name: &str, value: &mut A) -> Result<(), A::Error> {
        match name {
            "samples" if self.0.series == 1 || !self.0.first => value.next_value_seed(Each(self)),
            _ => ignore(value),
        }
    }
}

impl<'de> Elements<'de> for One<'_> {
    fn element<D: Deserializer<'de>>(&mut self, element: D) -> Result<(), D::Error> {
        use serde::de::Error as _;
        let series = &mut *self.0;
        if series.samples.len() >= series.most {
            series.too_many = true;
            return Err(D::Error::custom("refused"));
        }
        let mut sample = Sample::default();
        Object(&mut sample).deserialize(element)?;
        if !sample.is_stamped {
            return Err(D::Error::missing_field("timestampMs"));
        }
        series.samples.push(sample);
        Ok(())
    }
}

impl<'de> Members<'de> for Sample {
    fn member<A: MapAccess<'de>>(&mut self, name: &str, value: &mut A) -> Result<(), A::Error> {
        match name {
            "timestampMs" => {
                self.timestamp_ms = value.next_value::<Number>()?.0;
                self.is_stamped = true;
            }
            "value" => self.value = value.next_value()?,
            _ => ignore(value)?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_series_is_unknown_and_a_sample_counts_the_step_before_it() {
        assert_eq!(
            decode_count(br#"{"series":[],"metrics":{}}"#, 60, 9).unwrap(),
            None
        );
        let body = br#"{"series":[{"labels":[],"samples":[{"timestampMs":"120000"},{"timestampMs":"180000","value":7}]}]}"#;
        let counted = Histogram {
            steps: vec![Step {
                start: 120,
                seconds: 60,
                count: 7,
            }],
        };
        assert_eq!(decode_count(body, 60, 2).unwrap(), Some(counted));
        assert!(matches!(
            decode_count(body, 60, 1),
            Err(DecodeError::MoreSamples(1))
        ));
    }
}
