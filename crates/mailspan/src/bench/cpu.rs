//! Processor time of a process, from `/proc` (proc_pid_stat(5)).

/// `USER_HZ`, in which `/proc` counts: 100 on every architecture that this program is built for.
const TICKS_A_SECOND: u64 = 100;
/// After the name of the program: the state is the first field, user time the twelfth.
const USER: usize = 11;
const SYSTEM: usize = 12;

/// Milliseconds of user and system time of a process and all of its threads; 0 where it is gone.
pub fn used_ms(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    ticks(&text).unwrap_or(0) * 1_000 / TICKS_A_SECOND
}

/// The program's name stands in brackets and may hold blanks and brackets itself.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(fields.get(USER)?.parse::<u64>().ok()? + fields.get(SYSTEM)?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let rest = "S 1 1 1 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 1 0 100 1000";
        for name in ["mailspan", "a b", "x) y", "(("] {
            assert_eq!(ticks(&format!("12 ({name}) {rest}")), Some(300), "{name}");
        }
        for broken in ["", "12 (mailspan", "12 (mailspan) S 1"] {
            assert_eq!(ticks(broken), None);
        }
    }
}
