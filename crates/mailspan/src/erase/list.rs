//! `FILE.erased`: keyed hashes of all who were erased, beside the store and appended to, so that a store that comes
//! back from a back-up learns of erasures that it does not know. A line is `tenant hash milliseconds`.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use mailspan_core::{Millis, Name};
use mailspan_store::{ErasedHash, Store, Trouble};

/// Hashes that are asked about together.
pub const PAGE: usize = 500;

/// Keep it with the store, and out of its back-ups.
pub struct List {
    file: File,
    known: HashSet<(Name, String)>,
    read: Vec<ErasedHash>,
}

pub fn path_beside(database: &Path) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(".erased");
    PathBuf::from(path)
}

impl List {
    /// Made (0600) where it is missing. A line that was cut off is passed over.
    pub fn open(path: &Path) -> io::Result<List> {
        let mut file = File::options().create(true).read(true).append(true).mode(0o600).open(path)?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        if !text.is_empty() && !text.ends_with('\n') {
            file.write_all(b"\n")?;
        }
        let read: Vec<ErasedHash> = text.lines().filter_map(parse).collect();
        let known = read.iter().map(|one| (one.tenant.clone(), one.hash.clone())).collect();
        Ok(List { file, known, read })
    }

    /// What stood in the file when it was opened.
    pub fn known(&mut self) -> Vec<ErasedHash> {
        std::mem::take(&mut self.read)
    }

    /// Appends what the store knows and the file does not.
    pub async fn bring_up(&mut self, store: &Store) -> Result<(), Trouble> {
        let mut after = None;
        loop {
            let page = store.erased_hashes(after).await?;
            let Some(last) = page.last().cloned() else { return Ok(()) };
            let new: Vec<&ErasedHash> = page
                .iter()
                .filter(|one| !self.known.contains(&(one.tenant.clone(), one.hash.clone())))
                .collect();
            let lines: String = new.iter().map(|one| line(one)).collect();
            if !new.is_empty() {
                let written = self.file.write_all(lines.as_bytes()).and_then(|()| self.file.sync_data());
                written.map_err(|error| {
                    Trouble::Broken(format!("the list of erasures cannot be written: {error}"))
                })?;
                self.known.extend(new.iter().map(|one| (one.tenant.clone(), one.hash.clone())));
            }
            after = Some(last);
        }
    }
}

pub fn line(one: &ErasedHash) -> String {
    format!("{} {} {}\n", one.tenant, one.hash, one.at.0)
}

pub fn parse(line: &str) -> Option<ErasedHash> {
    let mut words = line.split_ascii_whitespace();
    let (tenant, hash, at) = (words.next()?, words.next()?, words.next()?);
    let is_hash = hash.len() == 32 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    let at = at.parse().ok().filter(|_| is_hash)?;
    Some(ErasedHash { tenant: Name::new(tenant), hash: hash.to_owned(), at: Millis(at) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_back_and_a_cut_one_is_none() {
        let one = ErasedHash { tenant: Name::new("acme"), hash: "0f".repeat(16), at: Millis(7) };
        let text = line(&one);
        assert_eq!(parse(&text), Some(one));
        for end in 0..text.len() - 2 {
            assert_eq!(parse(&text[..end]), None, "{end}");
        }
    }
}
