//! Datasets that several jobs fill: each must collect the same, or what one stores would pass for what another asked for.

use std::collections::BTreeMap;

use super::diagnostics::{KeyPath, Position, Positions, Problem, quoted};
use super::{Outline, Select};

/// What the enabled jobs that were read make of their datasets.
#[derive(Default)]
pub(super) struct Datasets(BTreeMap<String, Filled>);

/// A dataset as the first of its jobs fills it.
struct Filled {
    job: String,
    at: Position,
    source: Option<String>,
    select: Select,
}

impl Datasets {
    /// Takes note of what a job collects; what is wrong if a job before it fills its dataset with something else.
    pub(super) fn take(
        &mut self,
        job: &Outline,
        select: &Select,
        positions: &Positions,
    ) -> Option<Problem> {
        if !job.enabled {
            return None;
        }
        let (key, at) = ["dataset", "name"]
            .into_iter()
            .find_map(|key| Some((key, positions.value(key)?)))?;
        let Some(filled) = self.0.get(&job.dataset) else {
            let filled = Filled {
                job: job.name.clone(),
                at: at.clone(),
                source: job.source.clone(),
                select: select.clone(),
            };
            self.0.insert(job.dataset.clone(), filled);
            return None;
        };
        let (theirs, ours) = filled.differs(job.source.as_deref(), select)?;
        let what = format!(
            "is {}, which the job `{}` at {} fills with {theirs}, and this one with {ours}",
            quoted(&job.dataset),
            filled.job,
            filled.at
        );
        let fix = "give one of them another `dataset`, or let both collect the same";
        Some(Problem::value(&KeyPath::root().child(key), what).fix(fix))
    }
}

impl Filled {
    /// What it is filled with, and what a job of this source would, the first thing in which they differ. A source that is not
    /// known differs from none.
    fn differs(&self, source: Option<&str>, select: &Select) -> Option<(String, String)> {
        if let (Some(theirs), Some(ours)) = (self.source.as_deref(), source)
            && theirs != ours
        {
            let of = |name: &str| format!("traces of {}", quoted(name));
            return Some((of(theirs), of(ours)));
        }
        let query = |select: &Select| match &select.query {
            Some(query) => quoted(query),
            None => "every trace".to_owned(),
        };
        let detail = |select: &Select| format!("detail `{}`", select.detail);
        let attributes = |select: &Select| match &select.attributes[..] {
            [] => "no attributes".to_owned(),
            names => format!("the attributes {}", names.join(", ")),
        };
        let told = [
            query as fn(&Select) -> String,
            detail as fn(&Select) -> String,
            attributes as fn(&Select) -> String,
        ];
        let both = |tell: fn(&Select) -> String| (tell(&self.select), tell(select));
        told.into_iter()
            .map(both)
            .find(|(theirs, ours)| theirs != ours)
    }
}
