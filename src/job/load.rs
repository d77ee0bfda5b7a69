//! Reads job files and `sources.toml` from disk: which files are meant, what they hold, and everything that is wrong.
//!
//! Each file is taken as far as it goes: what its syntax leaves readable is held against the schema, what fits is
//! validated, and all problems are reported together. A source is read from `sources.toml` beside the job file, once a folder.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};

use super::datasets::Datasets;
use super::diagnostics::{
    Diagnostic, Diagnostics, KeyPath, Position, Positions, Problem, closest, quoted,
};
use super::env::Env;
use super::files::{read_text, toml_files, unreadable};
use super::reader::{Expansion, Reader};
use super::schema::{job_schema, sources_schema};
use super::secrets::MARKER;
use super::source::Source;
use super::spec::{JobSpec, SourceField, SourceSpec, SourcesSpec};
use super::structure;
use super::tree::{self, Node};
use super::validate;
use super::{Job, Outline};

/// The file with a folder's sources.
const SOURCES_FILE: &str = "sources.toml";
/// What job files are loaded with.
pub struct LoadOptions<'a> {
    /// Where `${VAR}` comes from.
    pub env: &'a dyn Env,
    /// The time: nothing may lie in its future.
    pub now: DateTime<Utc>,
}

/// What job files are checked with.
pub struct CheckOptions<'a> {
    /// Where `${VAR}` comes from. `None`: references count as valid, and no file is looked at.
    pub env: Option<&'a dyn Env>,
    /// The time: nothing may lie in its future.
    pub now: DateTime<Utc>,
}

/// What a check found.
#[derive(Debug)]
pub struct Report {
    /// The files with nothing wrong, in the order they were looked at.
    pub files: Vec<CheckedFile>,
    /// What is wrong with the others.
    pub problems: Diagnostics,
}

/// A file with nothing wrong.
#[derive(Debug)]
pub struct CheckedFile {
    /// The file, as it was named.
    pub file: PathBuf,
    /// What it holds.
    pub content: Content,
}

/// What a checked file holds.
#[derive(Debug)]
pub enum Content {
    /// A job; `None` where it depends too much on an environment that was not given.
    Job(Option<Outline>),
    /// `sources.toml`, with the names of its sources.
    Sources(Vec<String>),
}

/// Loads the jobs in `paths`: job files, or folders, of which every `*.toml` but `sources.toml` is one.
///
/// A folder's subfolders and hidden files are left alone. A file that is named twice is one file. A job in a folder that is
/// not enabled may lack its environment: it is left out then.
///
/// # Errors
/// Everything that is wrong with any of them; then none is returned.
pub fn load(paths: &[PathBuf], options: &LoadOptions<'_>) -> Result<Vec<Job>, Diagnostics> {
    let mut loader = Loader::new(Expansion::With(options.env), options.now);
    let mut jobs = Vec::new();
    for file in loader.find(paths, false) {
        jobs.extend(loader.job_that_runs(&file, paths).unwrap_or_default());
    }
    if loader.problems.is_empty() {
        Ok(jobs)
    } else {
        Err(loader.problems)
    }
}

/// What a folder of job files holds at a moment, file by file.
#[derive(Debug)]
pub struct Loaded {
    /// Each file with its job; `None`: something is wrong with it.
    pub files: Vec<(PathBuf, Option<Job>)>,
    /// Everything that is wrong with any of them.
    pub problems: Diagnostics,
}

/// Loads the jobs in `paths` as [`load`] would, each as far as it goes: what is wrong with one does not stop the others.
pub fn load_each(paths: &[PathBuf], options: &LoadOptions<'_>) -> Loaded {
    let mut loader = Loader::new(Expansion::With(options.env), options.now);
    // What another file has just become must not stop this one: the ledger knows what the dataset holds.
    loader.datasets = None;
    let mut files = Vec::new();
    for file in loader.find(paths, false) {
        if let Ok(job) = loader.job_that_runs(&file, paths) {
            files.push((file, job));
        }
    }
    Loaded {
        files,
        problems: loader.problems,
    }
}

/// Every file that decides what [`load`] finds in `paths`, those of `sources.toml` included.
pub fn files_of(paths: &[PathBuf]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            files.extend(toml_files(path).unwrap_or_default());
        } else {
            files.push(path.clone());
            files.push(folder_of(path).join(SOURCES_FILE));
        }
    }
    files
}

/// Checks the files in `paths` as [`load`] would, and `sources.toml` in the folders among them.
pub fn check(paths: &[PathBuf], options: &CheckOptions<'_>) -> Report {
    let expansion = options.env.map_or(Expansion::Without, Expansion::With);
    let mut loader = Loader::new(expansion, options.now);
    let mut checked = Vec::new();
    for file in loader.find(paths, true) {
        let content = if is_sources(&file) {
            let sources = loader.sources(folder_of(&file));
            Content::Sources(
                sources.map_or_else(Vec::new, |sources| sources.spec.0.keys().cloned().collect()),
            )
        } else {
            let (job, outline) = loader.job(&file);
            if job.is_none() && options.env.is_some() {
                continue;
            }
            Content::Job(outline)
        };
        checked.push(CheckedFile { file, content });
    }
    checked.retain(|checked| {
        loader
            .problems
            .iter()
            .all(|problem| problem.file != checked.file)
    });
    Report {
        files: checked,
        problems: loader.problems,
    }
}

/// A folder's `sources.toml`.
struct SourcesFile {
    file: PathBuf,
    spec: SourcesSpec,
    positions: Positions,
    unusable: BTreeSet<KeyPath>,
}

/// A job is not enabled.
struct NotEnabled;

struct Loader<'a> {
    expansion: Expansion<'a>,
    now: DateTime<Utc>,
    /// By folder; `None` where there is none, or none that can be read.
    sources: BTreeMap<PathBuf, Option<SourcesFile>>,
    /// The jobs' names and where they stand.
    names: BTreeMap<String, Position>,
    /// The jobs' datasets, if they are held against each other.
    datasets: Option<Datasets>,
    problems: Diagnostics,
}

impl<'a> Loader<'a> {
    fn new(expansion: Expansion<'a>, now: DateTime<Utc>) -> Self {
        Self {
            expansion,
            now,
            sources: BTreeMap::new(),
            names: BTreeMap::new(),
            datasets: Some(Datasets::default()),
            problems: Diagnostics::default(),
        }
    }

    /// The files meant by `paths`, each once; `sources.toml` only if `with_sources`.
    fn find(&mut self, paths: &[PathBuf], with_sources: bool) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for path in paths {
            if path.is_dir() {
                match toml_files(path) {
                    Err(error) => self.problems.push(unreadable(path, &error)),
                    Ok(found) if found.iter().all(|file| is_sources(file)) => {
                        let problem =
                            Diagnostic::file(path, "there is no job file (*.toml) in this folder");
                        self.problems
                            .push(problem.fix("`tempo-harvest init --url URL` prints one"));
                    }
                    Ok(found) => files.extend(
                        found
                            .into_iter()
                            .filter(|file| with_sources || !is_sources(file)),
                    ),
                }
            } else if is_sources(path) && !with_sources {
                let problem = Diagnostic::file(path, "holds sources, not a job");
                self.problems
                    .push(problem.fix("name the job file that uses them"));
            } else {
                files.push(path.clone());
            }
        }
        let mut seen = BTreeSet::new();
        files.retain(|file| seen.insert(file.canonicalize().unwrap_or_else(|_| file.clone())));
        files
    }

    /// Adds `problems` of the file whose keys stand at `positions`.
    fn report(
        &mut self,
        file: &Path,
        positions: &Positions,
        mut diagnostics: Vec<Diagnostic>,
        problems: Vec<Problem>,
    ) {
        diagnostics.extend(
            problems
                .into_iter()
                .map(|problem| positions.place(file, problem)),
        );
        self.problems.extend_sorted(diagnostics);
    }

    /// The job in `file`, `None` when anything is wrong with it.
    ///
    /// # Errors
    /// It is not enabled, was found in a folder, and nothing is wrong with it but its environment: that is nobody's concern.
    fn job_that_runs(&mut self, file: &Path, paths: &[PathBuf]) -> Result<Option<Job>, NotEnabled> {
        let before = self.problems.clone();
        let job = self.job(file).0;
        if job.is_some() || paths.iter().any(|path| path == file) {
            return Ok(job);
        }
        let mut without = Loader::new(Expansion::Without, self.now);
        let (_, outline) = without.job(file);
        if without.problems.is_empty() && outline.is_some_and(|outline| !outline.enabled) {
            self.problems = before;
            return Err(NotEnabled);
        }
        Ok(job)
    }

    /// The job in `file` and its outline; `None` when anything is wrong with it or not known.
    fn job(&mut self, file: &Path) -> (Option<Job>, Option<Outline>) {
        let Some(text) = self.text(file) else {
            return (None, None);
        };
        let parsed = tree::parse(file, &text);
        let mut positions = parsed.positions;
        if parsed.is_broken {
            self.report(file, &positions, parsed.errors, Vec::new());
            return (None, None);
        }
        if parsed.root.entries().is_empty() {
            let problem = Diagnostic::file(file, "is empty");
            self.problems
                .push(problem.fix("`tempo-harvest init --url URL` prints a job file"));
            return (None, None);
        }
        let root = KeyPath::root();
        let at_source = root.child("source");
        let nothing = BTreeSet::new();
        let mut expander = Reader::new(self.expansion, &nothing);
        let mut tree = parsed.root.clone();
        let unknown = tree.expand(&root, &at_source, &mut expander);
        let mut problems = expander.problems;
        let structure = structure::check(&job_schema(), &mut tree, unknown.into_iter().collect());
        problems.extend(structure.problems);
        let Ok(mut spec) = serde_json::from_value::<JobSpec>(tree.to_json()) else {
            self.report(file, &positions, parsed.errors, problems);
            self.problems.push(not_understood(file));
            return (None, None);
        };
        let mut reader = Reader::new(Expansion::Done, &structure.unusable);
        let name = validate::read_name(&root.child("name"), &spec.name, &mut reader, true);
        let validated = validate::validate(&spec, self.now, &mut reader);
        problems.extend(reader.problems);

        let mut storable_text = text.clone();
        let source = match &mut spec.source {
            _ if structure.unusable.contains(&at_source) => None,
            SourceField::Named(name) => {
                let found = self.named_source(file, name, &at_source, &mut positions);
                found.unwrap_or_else(|problem| {
                    problems.push(problem);
                    None
                })
            }
            SourceField::Inline(inline) => {
                inline.spec.make_paths_absolute(&absolute_folder(file));
                storable_text = without_literal_secrets(&text, &parsed.root, &inline.spec);
                let mut reader = Reader::new(self.expansion, &structure.unusable);
                let name = match &inline.name {
                    Some(name) => {
                        read_source_name(&at_source.child("name"), name, &mut reader).map(Some)
                    }
                    None => Some(None),
                };
                let source =
                    inline
                        .spec
                        .read(name.clone().flatten().as_deref(), &at_source, &mut reader);
                problems.extend(reader.problems);
                source
                    .filter(|_| name.is_some())
                    .map(|source| (source, inline.spec.clone()))
            }
        };
        if let Some(name) = &name {
            problems.extend(self.take_name(name, &positions));
        }
        let is_sound =
            problems.is_empty() && parsed.errors.is_empty() && structure.unusable.is_empty();
        self.report(file, &positions, parsed.errors, problems);
        if !is_sound {
            return (None, None);
        }
        let (Some(name), Some(validated)) = (name, validated) else {
            return (None, None);
        };
        let source_name = match (&source, &spec.source) {
            (Some((source, _)), _) => Some(&source.name),
            (None, SourceField::Named(name)) => Some(name),
            (None, SourceField::Inline(inline)) => inline.name.as_ref(),
        };
        let outline = validated.outline(&name, source_name.map(String::as_str));
        if let Some(datasets) = &mut self.datasets
            && let Some(problem) = datasets.take(&outline, &validated.select, &positions)
        {
            self.report(file, &positions, Vec::new(), vec![problem]);
            return (None, None);
        }
        let job = source.map(|(source, source_spec)| Job {
            name,
            dataset: validated.dataset,
            enabled: validated.enabled,
            timezone: validated.timezone,
            source,
            source_spec,
            select: validated.select,
            backfill: validated.backfill,
            poll: validated.poll,
            baseline: validated.baseline,
            retention: validated.retention,
            verify: validated.verify,
            file: file.to_owned(),
            text,
            storable_text,
            positions,
        });
        (job, Some(outline))
    }

    /// Takes `name` for the job at `positions`, unless another has it.
    fn take_name(&mut self, name: &str, positions: &Positions) -> Option<Problem> {
        let position = positions.value("name")?.clone();
        match self.names.get(name) {
            None => {
                self.names.insert(name.to_owned(), position);
                None
            }
            Some(other) => {
                let key = KeyPath::root().child("name");
                let what = format!("is `{name}`, but that is the job at {other}");
                Some(Problem::value(&key, what).fix("give one of them another name"))
            }
        }
    }

    /// The source that a job file names: `None` when there is something wrong with it that is reported where it stands.
    fn named_source(
        &mut self,
        job_file: &Path,
        name: &str,
        key: &KeyPath,
        positions: &mut Positions,
    ) -> Result<Option<(Source, SourceSpec)>, Problem> {
        if name.is_empty() {
            let fix =
                "name a table of sources.toml, or write the source here: source = { url = \"…\" }";
            return Err(Problem::value(key, "is empty").fix(fix));
        }
        let expansion = self.expansion;
        let folder = folder_of(job_file);
        let sources_file = folder.join(SOURCES_FILE);
        let is_missing = !sources_file.exists() && !sources_file.is_symlink();
        let Some(sources) = self.sources(folder) else {
            if !is_missing {
                return Ok(None);
            }
            let what = format!("is `{name}`, but there is no {}", sources_file.display());
            return Err(Problem::value(key, what).fix(format!(
                "create it with a [{name}] table, or write the source here: source = {{ url = \"…\" }}"
            )));
        };
        let at = KeyPath::root().child(name);
        if sources.unusable.contains(&at) {
            return Ok(None);
        }
        let Some(spec) = sources.spec.0.get(name) else {
            let known = sources.spec.0.keys().map(String::as_str);
            let what = format!(
                "is {}, which {} does not have",
                quoted(name),
                sources.file.display()
            );
            let fix = match closest(name, known.clone()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None if sources.spec.0.is_empty() => "it has none: add a table".to_owned(),
                None => format!(
                    "it has {}",
                    known.map(quoted).collect::<Vec<_>>().join(", ")
                ),
            };
            return Err(Problem::value(key, what).fix(fix));
        };
        let mut reader = Reader::new(expansion, &sources.unusable);
        let source = spec.read(Some(name), &at, &mut reader);
        positions.adopt(key, &sources.positions, &at);
        let found = source.map(|source| (source, spec.clone()));
        let problems: Vec<Diagnostic> = reader
            .problems
            .into_iter()
            .map(|problem| sources.positions.place(&sources.file, problem))
            .collect();
        self.problems.extend_sorted(problems);
        Ok(found)
    }

    /// The sources of `folder`, read and reported once.
    fn sources(&mut self, folder: &Path) -> Option<&SourcesFile> {
        if !self.sources.contains_key(folder) {
            let sources = self.read_sources(folder);
            self.sources.insert(folder.to_owned(), sources);
        }
        self.sources.get(folder).and_then(Option::as_ref)
    }

    fn read_sources(&mut self, folder: &Path) -> Option<SourcesFile> {
        let file = folder.join(SOURCES_FILE);
        if !file.exists() && !file.is_symlink() {
            return None;
        }
        let text = self.text(&file)?;
        let mut parsed = tree::parse(&file, &text);
        if parsed.is_broken {
            self.report(&file, &parsed.positions, parsed.errors, Vec::new());
            return None;
        }
        let structure = structure::check(&sources_schema(), &mut parsed.root, BTreeSet::new());
        let mut problems = structure.problems;
        let Ok(mut spec) = serde_json::from_value::<SourcesSpec>(parsed.root.to_json()) else {
            self.report(&file, &parsed.positions, parsed.errors, problems);
            self.problems.push(not_understood(&file));
            return None;
        };
        // Those that no job uses may lack their variables here; all else must be right.
        let mut reader = Reader::new(Expansion::Without, &structure.unusable);
        for (name, source) in &mut spec.0 {
            source.make_paths_absolute(&absolute_folder(&file));
            let at = KeyPath::root().child(name);
            if let Err(what) = check_source_name(name) {
                reader.refuse(Problem::key(
                    &at,
                    format!("the source's name {} {what}", quoted(name)),
                ));
            }
            source.read(Some(name), &at, &mut reader);
        }
        problems.extend(reader.problems);
        self.report(&file, &parsed.positions, parsed.errors, problems);
        Some(SourcesFile {
            file,
            spec,
            positions: parsed.positions,
            unusable: structure.unusable,
        })
    }

    /// What `file` holds, as text.
    fn text(&mut self, file: &Path) -> Option<String> {
        read_text(file)
            .map_err(|problems| self.problems.append(problems))
            .ok()
    }
}

fn is_sources(file: &Path) -> bool {
    file.file_name() == Some(OsStr::new(SOURCES_FILE))
}

/// The folder of `file`, as far as it is named.
fn folder_of(file: &Path) -> &Path {
    file.parent().unwrap_or(Path::new(""))
}

/// The folder of `file`, from the root; links are not followed.
fn absolute_folder(file: &Path) -> PathBuf {
    let folder = folder_of(file);
    std::path::absolute(folder.join(".")).unwrap_or_else(|_| folder.to_owned())
}

/// The types and the schema are one, so this is a defect; the reason is kept back, for it may quote a secret.
fn not_understood(file: &Path) -> Diagnostic {
    Diagnostic::file(file, "fits the schema, but cannot be read")
        .fix("please report this as a defect of tempo-harvest")
}

/// A source's name can be anything that is easily shown and typed.
fn check_source_name(name: &str) -> Result<(), &'static str> {
    let is_possible = (1..=100).contains(&name.chars().count())
        && !name.contains(|c: char| c.is_whitespace() || c.is_control());
    if is_possible {
        Ok(())
    } else {
        Err("must be 1 to 100 characters without spaces")
    }
}

fn read_source_name(key: &KeyPath, written: &str, reader: &mut Reader<'_>) -> Option<String> {
    let name = reader.text(key, written)?;
    let checked = check_source_name(&name).map_err(|what| {
        (
            format!("{what}, not {}", quoted(&name)),
            "shorten it".to_owned(),
        )
    });
    reader.accept(key, checked)?;
    Some(name)
}

/// `text` with [`MARKER`] in place of the secrets that are written literally in the inline source `spec`.
fn without_literal_secrets(text: &str, root: &Node, spec: &SourceSpec) -> String {
    let mut spans: Vec<_> = spec
        .literal_secrets()
        .iter()
        .filter_map(|key| root.get("source")?.at(key.segments()))
        .map(|node| node.span.clone())
        .collect();
    spans.sort_by_key(|span| std::cmp::Reverse(span.start));
    let mut storable = text.to_owned();
    for span in spans {
        storable.replace_range(span, &format!("\"{MARKER}\""));
    }
    storable
}
