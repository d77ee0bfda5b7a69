//! A client of a dataset's source, from what the database keeps of it, at the pace that all processes keep together.

use std::sync::Arc;

use sqlx::PgPool;

use crate::{
    harvest::Harvester,
    job::{ProcessEnv, Source, SourceSpec},
    meter::Meter,
    pace::Together,
    store::{Holder, sources},
    tempo::{Client, gate::Pace},
};

/// Why a source cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It is not known any more.
    #[error("source `{0}` is not in the database any more: submit a job that has it")]
    Gone(String),
    /// What is needed to reach it is not here.
    #[error("cannot ask source `{source_name}`: {reason}")]
    Unusable {
        /// The source.
        source_name: String,
        /// Why.
        reason: String,
    },
    /// The database refuses.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// A source that can be asked.
#[derive(Debug)]
pub struct Opened {
    /// Who asks it.
    pub harvester: Harvester,
    /// Its definition, with secrets.
    pub source: Source,
    pace: Arc<Together>,
}

impl Opened {
    /// Opens the source of this name as it is at hand, or as the database keeps it.
    ///
    /// # Errors
    /// If it is gone, or something that it needs is not here, or the database refuses.
    pub async fn open(
        pool: &PgPool,
        holder: &Holder,
        name: &str,
        at_hand: Option<Source>,
    ) -> Result<Self, SourceError> {
        let unusable = |reason: String| SourceError::Unusable {
            source_name: name.to_owned(),
            reason,
        };
        let (spec, limits) = {
            let mut conn = pool.acquire().await?;
            let spec = sources::spec(&mut conn, name).await?;
            (spec, sources::limits(&mut conn, name).await?)
        };
        let source = match at_hand {
            Some(source) => source,
            None => {
                let spec = spec.ok_or_else(|| SourceError::Gone(name.to_owned()))?;
                let spec: SourceSpec = serde_json::from_value(spec).map_err(|error| {
                    unusable(format!(
                        "its definition in the database cannot be read: {error}"
                    ))
                })?;
                spec.resolve(name, &ProcessEnv).map_err(|problems| {
                    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                    unusable(problems.join("; "))
                })?
            }
        };
        let pace = Arc::new(Together::new(pool.clone(), holder, name, &source.limits));
        let client = Client::at_pace(source.clone(), limits, Arc::clone(&pace) as Arc<dyn Pace>)
            .map_err(|error| unusable(error.to_string()))?;
        Ok(Self {
            harvester: Harvester {
                pool: pool.clone(),
                client: Arc::new(client),
                holder: holder.clone(),
                meter: Meter::default(),
            },
            source,
            pace,
        })
    }

    /// Gives back what is held.
    pub async fn close(self) {
        self.pace.close().await;
    }
}
