//! What is done with each input: by libFuzzer (`targets/`) with inputs it makes up, and by `cargo test` with recordings and with
//! every input that once found something.
//!
//! A body is given bytes and must not panic. Beyond that it holds the program to what must be true of any input: what was read and
//! is written down again reads as the same, in either form; a part of an answer is refused; nothing takes more than it may.

mod answers;
mod files;
mod texts;

/// What takes an input.
type Body = fn(&[u8]);

/// Every target by name; `Cargo.toml` names them once more, for each is a program.
pub const TARGETS: [(&str, Body); 15] = [
    ("certificate", texts::certificate),
    ("counts", answers::counts),
    ("job", files::job),
    ("refusal", texts::refusal),
    ("retry_after", texts::retry_after),
    ("search_json", answers::search_json),
    ("search_protobuf", answers::search_protobuf),
    ("sources", files::sources),
    ("spans_json", answers::spans_json),
    ("spans_protobuf", answers::spans_protobuf),
    ("times", texts::times),
    ("trace_id", texts::trace_id),
    ("trace_json", answers::trace_json),
    ("trace_protobuf", answers::trace_protobuf),
    ("traceql", texts::traceql),
];

/// Gives a target an input.
///
/// # Panics
/// If there is no such target, or if the input shows that something is wrong.
pub fn run(target: &str, input: &[u8]) {
    let found = TARGETS.iter().find(|(name, _)| *name == target);
    let Some((_, body)) = found else {
        panic!("there is no target `{target}`");
    };
    body(input);
}
