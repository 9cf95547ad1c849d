//! CPU time of processes.

/// CPU of a process and its children, seconds (resolution 10 ms).
pub(crate) fn seconds(id: u32) -> f64 {
    let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    let all = children.split_whitespace().map(str::to_owned).chain([id.to_string()]);
    let threads = |id: String| {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let fields: Vec<u64> = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .filter_map(|f| f.parse().ok())
            .collect();
        // After the command name, utime and stime are the 11th and 12th number (the state letter is no number).
        (fields[10] + fields[11]) as f64 / 100.0
    };
    all.map(threads).sum()
}
