//! CPU time of processes.

/// CPU of a process and its children, seconds (resolution 10 ms).
pub(crate) fn seconds(id: u32) -> f64 {
    // Any thread of the process may have started a child.
    let threads_of = std::fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let children: Vec<String> = threads_of
        .map(|thread| std::fs::read_to_string(thread.path().join("children")).unwrap_or_default())
        .flat_map(|text| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let all = children.into_iter().chain([id.to_string()]);
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
