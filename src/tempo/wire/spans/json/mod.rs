//! Spans in JSON, which comes where something on the way does not pass on what is accepted: those of a search, which tells them
//! in its own way (`searched`), and those of a look-up by ID, which has OpenTelemetry's (`looked_up`). Attributes are alike in both
//! (`attribute`).

mod attribute;
mod looked_up;
mod searched;

pub(super) use looked_up::trace_by_id;
pub(super) use searched::search;
