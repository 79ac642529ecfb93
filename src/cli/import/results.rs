//! What became of the rows, told as it comes: faults on standard output, progress on standard error.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::reader::Prepared;
use crate::cli::fault::Fault;
use crate::cli::json;
use crate::cli::output::{self, Sink};
use crate::cli::text::{self, Lines};
use crate::pb::v1;

/// How many rows pass between two lines of progress where there is no terminal.
const ROWS_PER_LINE: u64 = 100_000;
/// The bar: bytes of the file that are durable.
const STYLE: &str = "{bar:30} {percent:>3} %  {elapsed}, {eta} to go  {msg}";

/// Counts and tells.
pub struct Results {
    as_json: bool,
    dry_run: bool,
    bar: ProgressBar,
    sink: Sink,
    import_id: String,
    first_row: u64,
    durable_row: u64,
    recorded: u64,
    repeated: u64,
    refused: u64,
    told_at: u64,
    token: String,
}

impl Results {
    /// Nothing yet, of a file with `len` bytes.
    pub fn new(as_json: bool, dry_run: bool, len: u64) -> Self {
        // Draws nothing where standard error is no terminal.
        let bar = ProgressBar::with_draw_target(Some(len), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template(STYLE) {
            bar.set_style(style);
        }
        Self {
            as_json,
            dry_run,
            bar,
            sink: Sink::stdout(),
            import_id: String::new(),
            first_row: 1,
            durable_row: 0,
            recorded: 0,
            repeated: 0,
            refused: 0,
            told_at: 0,
            token: String::new(),
        }
    }

    /// The import's id is known, and where it is to begin.
    pub fn named(&mut self, import_id: &str, from_row: u64) {
        import_id.clone_into(&mut self.import_id);
        self.begins_at(from_row);
    }

    /// Rows before this one are not sent.
    pub fn begins_at(&mut self, from_row: u64) {
        self.first_row = from_row;
        self.durable_row = from_row.saturating_sub(1);
    }

    /// The last row of which it is known that it and all before it are recorded or refused.
    pub const fn durable_row(&self) -> u64 {
        self.durable_row
    }

    /// The import's id.
    pub fn import_id(&self) -> &str {
        &self.import_id
    }

    /// Rows refused so far.
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    /// Takes in the answer to a chunk and tells its bad rows.
    ///
    /// # Errors
    /// [`Fault::File`] or [`Fault::Closed`] where nothing can be told.
    pub fn chunk(&mut self, chunk: &Prepared, result: v1::ImportChunkResult) -> Result<(), Fault> {
        let v1::ImportChunkResult {
            first_row: _,
            recorded_rows,
            repeated_rows,
            errors,
            durable_row,
            warnings,
        } = result;
        self.recorded += u64::from(recorded_rows);
        self.repeated += u64::from(repeated_rows);
        self.refused += errors.len() as u64;
        self.durable_row = self.durable_row.max(durable_row);
        let mut lines = String::new();
        for error in &errors {
            // A row that was sent empty is told by what was wrong with it here.
            let own = chunk.faults.iter().find(|fault| fault.row == error.row);
            self.tell_row(&mut lines, own.unwrap_or(error), chunk.line(error.row));
        }
        for (row, warning) in &chunk.warnings {
            self.tell_warning(&mut lines, &format!("row {row}: {}", warning.field), &warning.description);
        }
        for v1::Warning { field, description } in &warnings {
            self.tell_warning(&mut lines, field, description);
        }
        if !lines.is_empty() {
            let sink = &mut self.sink;
            self.bar.suspend(|| sink.write(&lines).and_then(|()| sink.flush()))?;
        }
        self.bar.set_position(chunk.end_bytes);
        self.bar.set_message(self.sums());
        let rows = self.durable_row;
        if self.bar.is_hidden() && !self.as_json && rows / ROWS_PER_LINE > self.told_at {
            self.told_at = rows / ROWS_PER_LINE;
            output::note(&format!("row {rows}: {}", self.sums()));
        }
        Ok(())
    }

    fn sums(&self) -> String {
        let Self { recorded, repeated, refused, .. } = self;
        let done = if self.dry_run { "sound" } else { "recorded" };
        format!("{recorded} {done}, {repeated} known before, {refused} refused")
    }

    fn tell_row(&self, lines: &mut String, error: &v1::ImportRowError, line: Option<u64>) {
        let v1::ImportRowError { row, violations } = error;
        let line = line.unwrap_or_default();
        if self.as_json {
            lines.push_str(&format!(
                "{{\"row\":{row},\"line\":{line},\"violations\":{}}}\n",
                json::list(violations)
            ));
            return;
        }
        for v1::FieldViolation { field, description } in violations {
            let description = text::clean(description);
            lines.push_str(&format!("row {row} (line {line}) refused: {field}: {description}\n"));
        }
    }

    fn tell_warning(&self, lines: &mut String, field: &str, description: &str) {
        if self.as_json {
            let told = serde_json::json!({ "warning": { "field": field, "description": description } });
            lines.push_str(&format!("{told}\n"));
        } else {
            lines.push_str(&format!("warning: {}: {}\n", text::clean(field), text::clean(description)));
        }
    }

    /// Takes in the server's sums.
    pub fn summary(&mut self, summary: v1::ImportSummary) {
        let v1::ImportSummary { recorded_rows, repeated_rows, refused_rows, token } = summary;
        self.recorded = recorded_rows;
        self.repeated = repeated_rows;
        self.refused = refused_rows;
        self.token = token;
    }

    /// Tells the end.
    ///
    /// # Errors
    /// As [`Results::chunk`].
    pub fn finish(&mut self) -> Result<(), Fault> {
        self.bar.finish_and_clear();
        let rows = self.recorded + self.repeated + self.refused;
        let elapsed = self.bar.elapsed();
        // A file that took no measurable time has no rate.
        let rate =
            u64::try_from(u128::from(rows) * 1_000_000 / elapsed.as_micros().max(1)).unwrap_or(u64::MAX);
        if self.as_json {
            let told = serde_json::json!({
                "summary": {
                    "import_id": self.import_id,
                    "dry_run": self.dry_run,
                    "rows": rows,
                    "recorded_rows": self.recorded,
                    "repeated_rows": self.repeated,
                    "refused_rows": self.refused,
                    "rows_per_second": rate,
                    "elapsed_ms": u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
                    "token": self.token,
                }
            });
            self.sink.line(&told.to_string())?;
            return self.sink.flush();
        }
        let mut lines = Lines::new();
        lines.line(if self.dry_run {
            "Looked at the file; nothing was written.".to_owned()
        } else {
            format!("Imported from row {}.", self.first_row)
        });
        lines.row("rows", format!("{rows} in {:.1} s, {rate} rows/s", elapsed.as_secs_f64()));
        lines.row(if self.dry_run { "sound" } else { "recorded" }, self.recorded.to_string());
        lines.row("known before", self.repeated.to_string());
        lines.row("refused", self.refused.to_string());
        lines.row("import id", &self.import_id).row("token", &self.token);
        self.sink.write(lines.text())?;
        self.sink.flush()
    }

    /// The import broke off: takes the bar away, so that the error can be read.
    pub fn abandon(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(row: u64, field: &str) -> v1::ImportRowError {
        let violation = v1::FieldViolation { field: field.into(), description: "is wrong".into() };
        v1::ImportRowError { row, violations: vec![violation] }
    }

    #[test]
    fn bad_rows_are_told_with_row_and_line() {
        let results = Results::new(false, false, 0);
        let mut lines = String::new();
        results.tell_row(&mut lines, &error(17, "channels"), Some(18));
        assert_eq!(lines, "row 17 (line 18) refused: channels: is wrong\n");
        let results = Results::new(true, false, 0);
        let mut lines = String::new();
        results.tell_row(&mut lines, &error(17, "channels"), Some(18));
        assert_eq!(
            lines,
            "{\"row\":17,\"line\":18,\"violations\":[{\"field\":\"channels\",\"description\":\"is wrong\"}]}\n"
        );
    }

    #[test]
    fn sums_grow_and_the_durable_row_never_falls_back() {
        let mut results = Results::new(false, false, 100);
        results.named("i1", 5);
        assert_eq!(results.durable_row(), 4);
        let mut chunk = Prepared::default();
        (chunk.first_row, chunk.lines, chunk.end_bytes) = (5, vec![6, 7], 50);
        let answer = v1::ImportChunkResult {
            first_row: 5,
            recorded_rows: 1,
            errors: vec![error(6, "recipient")],
            durable_row: 6,
            ..Default::default()
        };
        results.chunk(&chunk, answer).expect("is told");
        assert_eq!((results.durable_row(), results.refused()), (6, 1));
        assert_eq!(results.sums(), "1 recorded, 0 known before, 1 refused");
    }
}
