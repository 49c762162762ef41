//! Why a move did not begin or did not end, and what to do.

use crate::OpenError;

#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{place} holds no store: name the store to move from")]
    NoSource { place: String },
    #[error("{place} is served: stop every hub on it first (`{lease}` is held by one)")]
    Served { place: String, lease: String },
    #[error("{place} has schema {found}, this version's is {known}: run `mailspan migrate` on it first")]
    Schema { place: String, found: i64, known: i64 },
    #[error("{place} is the target of a move that is not finished: it cannot be moved from")]
    Unfinished { place: String },
    #[error(
        "{place} is not empty and no move was begun there (rows in {tables}): name a new file, or a database or schema without tables"
    )]
    NotEmpty { place: String, tables: String },
    #[error(
        "{place} holds a move of another source, or the source was used since that began: empty it and begin anew"
    )]
    OtherSource { place: String },
    #[error(
        "another move works on {place}, or a hub writes there (one of role `intake` too): wait for its end, or stop it"
    )]
    Busy { place: String },
    #[error(
        "{place} differs from the source in {tables}: one of them was written to during the move; empty it and begin anew"
    )]
    Differs { place: String, tables: String },
    #[error("column {column} of table {table} is not known on both sides: this is a mistake in this version")]
    Column { table: &'static str, column: String },
    #[error("{place}: {cause}; what was copied stays, and the same command goes on from there")]
    Failed { place: String, cause: String },
}
