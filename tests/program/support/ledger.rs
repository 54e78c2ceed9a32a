//! What plugins of the zoo wrote down: a witness that knows nothing of the engine.

use std::path::Path;

use serde_json::Value;

/// One ExecuteJob as the plugin received it.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The job.
    pub job_id: String,
    /// Which attempt.
    pub attempt: u64,
    /// The watcher as shown; empty for other jobs.
    pub watcher: String,
    /// The handler.
    pub handler: String,
    /// The id in the payload.
    pub payload_id: String,
    /// When, in nanoseconds since 1970.
    pub at_ns: u64,
    /// The plugin's process.
    pub pid: u64,
}

/// All deliveries of a plugin, in their order; none when it never got any. A line that a kill cut off
/// is left out: its job was not answered.
pub fn read(path: &Path) -> Vec<Delivery> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .map(|line| parse(&line))
        .collect()
}

fn parse(line: &Value) -> Delivery {
    let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    let number = |key: &str| line[key].as_u64().unwrap_or_default();
    Delivery {
        job_id: text("job_id"),
        attempt: number("attempt"),
        watcher: text("watcher"),
        handler: text("handler"),
        payload_id: text("payload_id"),
        at_ns: number("at_ns"),
        pid: number("pid"),
    }
}
