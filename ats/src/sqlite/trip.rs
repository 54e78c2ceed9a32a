//! Statements on their way to the database.
//!
//! Every execute is a trip to the connection's own thread and back, dearer than a small statement itself, and
//! much dearer while all cores are busy. So rows go in statements of many rows, of which as many as a commit
//! usually has stay prepared, single statements wait for each other, and those of a small commit travel together
//! as one text. Parameters are plain `?`, because numbered ones would count over the whole text.

use std::sync::{Arc, OnceLock};

use sqlx::sqlite::{SqliteArguments, SqliteConnection};
use sqlx::{Arguments, AssertSqlSafe, Encode, Row, SqlSafeStr, SqlStr, Sqlite, Type};

/// Up to here there is a statement for each number of rows.
const ROWS_EXACT_MAX: usize = 32;
/// Rows of the larger statements; those of the last only where an insert says so.
const ROWS_LARGE: [usize; 2] = [100, 500];
/// A statement for each number of rows up to the bound, and those of many rows behind them.
const SHAPES: usize = ROWS_EXACT_MAX + ROWS_LARGE.len();
/// Single statements that wait for each other: each make-up of them is a text that stays prepared.
const WAITING_MAX: usize = 6;

/// The shape that takes most of so many rows at once, one at least.
fn shape_of(rows: usize, wide: bool) -> usize {
    let large = if wide { ROWS_LARGE.as_slice() } else { &ROWS_LARGE[..1] };
    match large.iter().rposition(|size| *size <= rows) {
        Some(which) => ROWS_EXACT_MAX + which,
        None => rows.min(ROWS_EXACT_MAX) - 1,
    }
}

/// How many rows a statement of this shape takes.
fn rows_of(shape: usize) -> usize {
    shape.checked_sub(ROWS_EXACT_MAX).map_or(shape + 1, |which| ROWS_LARGE[which])
}

/// An insert of a table, in all its shapes.
pub(super) struct Insert {
    /// `INSERT INTO t (…) VALUES `
    head: &'static str,
    columns: usize,
    /// What follows the rows, where they are no insert's.
    tail: &'static str,
    /// Whether it takes the largest shape, which costs memory for as long as the statement is prepared.
    wide: bool,
    texts: [OnceLock<Arc<str>>; SHAPES],
}

impl Insert {
    pub const fn new(head: &'static str, columns: usize) -> Insert {
        Insert::around(head, columns, "")
    }

    /// A statement over rows that are given with it, such as an update from them: `head` and `tail` stand
    /// around them.
    pub const fn around(head: &'static str, columns: usize, tail: &'static str) -> Insert {
        Insert { head, columns, tail, wide: false, texts: [const { OnceLock::new() }; SHAPES] }
    }

    /// The same for rows that come by the thousand at once.
    pub const fn wide(mut self) -> Insert {
        self.wide = true;
        self
    }

    fn text(&self, shape: usize) -> &Arc<str> {
        self.texts[shape].get_or_init(|| {
            let row = format!("({})", vec!["?"; self.columns].join(","));
            let rows = vec![row; rows_of(shape)].join(",");
            format!("{}{rows}{};", self.head, self.tail).into()
        })
    }
}

/// Frames of the write-ahead log: all, and those of them that are in the main file too.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct WalFrames {
    pub written: u64,
    pub copied: u64,
}

impl WalFrames {
    /// Frames that the main file still lacks.
    pub fn waiting(self) -> u64 {
        self.written.saturating_sub(self.copied)
    }
}

/// One transaction, from `BEGIN IMMEDIATE` to `COMMIT`. After an error it is for the caller to roll
/// back.
pub(super) struct Transaction<'c> {
    connection: &'c mut SqliteConnection,
    text: String,
    values: Values,
    /// Statements in the text.
    waiting: usize,
    /// Whether all statements go as one text, those of rows too.
    together: bool,
}

impl<'c> Transaction<'c> {
    /// `together`: the transaction is so small that its statements go as one text. There is one such
    /// text for each make-up of a commit, so this is for make-ups that come again and again.
    pub fn begin(connection: &'c mut SqliteConnection, together: bool) -> Transaction<'c> {
        let text = "BEGIN IMMEDIATE;".to_owned();
        Transaction { connection, text, values: Values::default(), waiting: 1, together }
    }

    /// Adds a statement, which must end with `;`.
    pub async fn execute(
        &mut self,
        statement: &str,
        bind: impl FnOnce(&mut Values),
    ) -> Result<(), sqlx::Error> {
        self.text.push_str(statement);
        bind(&mut self.values);
        self.waiting += 1;
        if self.together || self.waiting < WAITING_MAX { Ok(()) } else { self.send().await }
    }

    /// Adds rows to a table.
    pub async fn insert<T>(
        &mut self,
        insert: &'static Insert,
        mut rows: &[T],
        bind: impl Fn(&mut Values, &T),
    ) -> Result<(), sqlx::Error> {
        while !rows.is_empty() {
            let shape = shape_of(rows.len(), insert.wide);
            let (now, later) = rows.split_at(rows_of(shape));
            rows = later;
            if self.together {
                self.text.push_str(insert.text(shape));
            } else {
                self.send().await?;
                self.values.reserve(now.len() * insert.columns);
            }
            for row in now {
                bind(&mut self.values, row);
            }
            if !self.together {
                self.send_text(AssertSqlSafe(insert.text(shape).clone()).into_sql_str()).await?;
            }
        }
        Ok(())
    }

    /// Sends what waits, and commits. When this answers, the transaction is on the disk.
    pub async fn commit(mut self) -> Result<(), sqlx::Error> {
        self.text.push_str("COMMIT;");
        self.send().await
    }

    /// Commits, and answers on the same trip how long the write-ahead log is now.
    pub async fn commit_and_measure(mut self) -> Result<WalFrames, sqlx::Error> {
        self.text.push_str("COMMIT;PRAGMA wal_checkpoint=noop;");
        let values = std::mem::take(&mut self.values);
        let row = sqlx::query_with(AssertSqlSafe(self.text), values.into_arguments())
            .fetch_all(&mut *self.connection)
            .await?;
        wal_frames(row.last())
    }

    async fn send(&mut self) -> Result<(), sqlx::Error> {
        if self.text.is_empty() {
            return Ok(());
        }
        let text = std::mem::take(&mut self.text);
        self.waiting = 0;
        self.send_text(AssertSqlSafe(text).into_sql_str()).await
    }

    async fn send_text(&mut self, text: SqlStr) -> Result<(), sqlx::Error> {
        let values = std::mem::take(&mut self.values);
        sqlx::query_with(text, values.into_arguments())
            .execute(&mut *self.connection)
            .await
            .map(drop)
    }
}

/// What `PRAGMA wal_checkpoint` answers: whether it was hindered, and the two counts.
pub(super) fn wal_frames(row: Option<&sqlx::sqlite::SqliteRow>) -> Result<WalFrames, sqlx::Error> {
    let row = row.ok_or(sqlx::Error::RowNotFound)?;
    let count = |column| {
        row.try_get_unchecked::<i64, _>(column).map(|count| u64::try_from(count).unwrap_or(0))
    };
    Ok(WalFrames { written: count(1)?, copied: count(2)? })
}

/// Values for the parameters of statements, in order.
#[derive(Default)]
pub(super) struct Values(SqliteArguments);

impl Values {
    fn reserve(&mut self, count: usize) {
        self.0.reserve(count, 0);
    }

    pub fn into_arguments(self) -> SqliteArguments {
        self.0
    }

    pub fn add<'t>(&mut self, value: impl Encode<'t, Sqlite> + Type<Sqlite>) {
        self.0.add(value).expect("numbers, texts and bytes can always be bound");
    }

    /// A number of ours; none of them comes near the top bit.
    pub fn number(&mut self, number: u64) {
        self.add(number.cast_signed());
    }
}
