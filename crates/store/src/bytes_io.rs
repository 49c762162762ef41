//! Length-prefixed fields: how packed rows are written and read.

/// Appends a field: its length in four bytes (little endian), then its bytes.
pub(crate) fn put(out: &mut Vec<u8>, field: &[u8]) {
    let length = u32::try_from(field.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&field[..length as usize]);
}

/// Reads fields one after another; `None` at the first that is not whole.
pub(crate) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk::<4>()?;
        let (field, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        self.0 = rest;
        Some(field)
    }

    pub(crate) fn text(&mut self) -> Option<String> {
        String::from_utf8(self.next()?.to_vec()).ok()
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_short_is_no_field() {
        let mut out = vec![];
        put(&mut out, b"abc");
        assert_eq!(Fields(&out).next(), Some(&b"abc"[..]));
        for end in 0..out.len() {
            assert_eq!(Fields(&out[..end]).next(), None, "{end} bytes");
        }
    }
}
