//! Every bound on what axwatch accepts, each with its unit in its name.

/// Terms in one dimension of an attestation.
pub const TERMS_MAX: usize = 100;
/// Bytes of one term.
pub const TERM_BYTES_MAX: usize = 1_000;
/// Bytes of an attestation's attributes as compact JSON.
pub const ATTRIBUTES_BYTES_MAX: usize = 1024 * 1024;
/// Nested objects and arrays in an attestation's attributes, the outermost counted.
pub const ATTRIBUTES_DEPTH_MAX: usize = 64;
/// Bytes of an attestation's source.
pub const SOURCE_BYTES_MAX: usize = 1_000;
/// Bytes of an id: of an attestation, a watcher, an owner, a handler.
pub const ID_BYTES_MAX: usize = 256;
/// Bytes of an Ed25519 signature with room for what other schemes need.
pub const SIGNATURE_BYTES_MAX: usize = 1_024;
/// Bytes of a watcher's parameters.
pub const PARAMS_BYTES_MAX: usize = 64 * 1024;
/// Handlers of one watcher.
pub const HANDLERS_MAX: usize = 16;
/// The highest rate limit a watcher may declare, in fires a second.
pub const FIRES_PER_SECOND_MAX: i64 = 100_000;
/// How often a watcher may declare that it occurs in one chain of causes.
pub const CHAIN_MAX: u32 = 256;
/// The most counted attempts that a job may be given.
pub const ATTEMPTS_MAX: u32 = 10_000;
/// The longest that attempts of a job may fail before it is given up.
pub const JOB_AGE_MAX: std::time::Duration = std::time::Duration::from_secs(366 * 24 * 60 * 60);
/// Bytes of a job's payload when it is given by a caller.
pub const PAYLOAD_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of the source of a job, by which a second one of the same is known.
pub const JOB_SOURCE_BYTES_MAX: usize = 1_000;
/// The highest priority of a job; the lowest is as far below 0.
pub const PRIORITY_MAX: i8 = 10;
/// How many jobs stand in one chain of parents and children, the first counted.
pub const KIN_DEPTH_MAX: usize = 64;
/// Log entries of one job that are kept.
pub const ENTRIES_MAX: u32 = 1_000;
/// Bytes of the log entries of one job that are kept, all its attempts together.
pub const ENTRIES_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a job's result that are kept; a longer one is left out and flagged.
pub const RESULT_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of the text of a cron schedule.
pub const CRON_BYTES_MAX: usize = 256;
/// Bytes of what the owner of a schedule keeps with it: a JSON object.
pub const METADATA_BYTES_MAX: usize = 64 * 1024;
/// Ranges of nominal times that a schedule remembers as seen to.
pub const SEEN_RANGES_MAX: usize = 64;
/// Missed times that a schedule may make up for one by one.
pub const MISSED_MAX: u32 = 1_000;
/// Bytes of what a schedule says that it stands for in AX.
pub const ATS_CODE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of the description of a schedule or a route that are kept.
pub const DESCRIPTION_BYTES_MAX: usize = 1_000;
/// Bytes of the method of a route.
pub const METHOD_BYTES_MAX: usize = 32;
/// Bytes of the path of a route.
pub const PATH_BYTES_MAX: usize = 2_000;
/// Bytes of an error text that are kept.
pub const ERROR_BYTES_MAX: usize = 4 * 1024;

/// Cuts `text` to at most `max` bytes at a character boundary.
#[must_use]
pub fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}
