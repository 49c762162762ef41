//! Addresses are left out of what is logged: a vendor's answer that is quoted may name somebody, and a log is not
//! reached by an erasure.

use std::io::{self, Write};

/// Writes whole lines to another writer, without addresses.
pub struct Masked<W>(pub W);

impl<W: Write> Write for Masked<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write_all(masked(&String::from_utf8_lossy(line)).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

const MARK: &str = "[address]";

/// What looks like `local@domain` (or `local%40domain`) becomes `[address]`; a word that a clip has cut off goes
/// too, as it may be the beginning of one.
fn masked(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((at, sign)) = next_sign(rest) {
        let (before, after) = (&rest[..at], &rest[at + sign.len()..]);
        let local = before.len() - before.trim_end_matches(is_local).len();
        let domain =
            after.len() - after.trim_start_matches(|c: char| c.is_alphanumeric() || ".-".contains(c)).len();
        out.push_str(&before[..before.len() - local]);
        rest = match (sign, local, domain) {
            ("…", 1.., _) => {
                out.push_str(sign);
                after
            }
            ("@" | "%40", 1.., 1..) => {
                out.push_str(MARK);
                &after[domain..]
            }
            _ => {
                out.push_str(&before[before.len() - local..]);
                out.push_str(sign);
                after
            }
        };
    }
    out.push_str(rest);
    out
}

fn next_sign(text: &str) -> Option<(usize, &'static str)> {
    ["@", "%40", "…"].into_iter().filter_map(|sign| Some((text.find(sign)?, sign))).min()
}

fn is_local(c: char) -> bool {
    c.is_alphanumeric() || "!#$&'*+-/=?^_`{|}~.%".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let mut out = vec![];
        Masked(&mut out).write_all(text.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn no_address_is_written() {
        check(
            "refused: HTTP 422 {\"to\":\"Ann.B+c@x-y.org\"} from=\"127.0.0.1\"",
            "refused: HTTP 422 {\"to\":\"[address]\"} from=\"127.0.0.1\"",
        );
        check("a@b.co, and%40 c%40d.org <ü@bücher.example>", "[address], and%40 [address] <[address]>");
        check("said {\"to\":\"ann.pe…; see", "said {\"to\":\"…; see");
        check("at 12:00 @ noon, 50 % … done\n", "at 12:00 @ noon, 50 % … done\n");
    }
}
