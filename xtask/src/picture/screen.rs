//! A small terminal: what stands where, in which colour, after a program has written to it.
//!
//! It knows what progress bars and tables use: line ends, returns, moving, erasing, bold, dim and the
//! sixteen colours. What does not fit into a line is cut, so that the picture has no wrapped lines.

/// A place on the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// What stands there.
    pub text: char,
    /// How.
    pub look: Look,
}

/// How a character looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Look {
    /// One of the sixteen colours, or the usual one.
    pub colour: Option<u8>,
    /// Brighter and thicker.
    pub is_bold: bool,
    /// Darker.
    pub is_dim: bool,
}

/// A screen without an end downwards.
#[derive(Debug)]
pub struct Screen {
    columns: usize,
    rows: Vec<Vec<Cell>>,
    row: usize,
    column: usize,
    look: Look,
}

const BLANK: Cell = Cell { text: ' ', look: Look { colour: None, is_bold: false, is_dim: false } };

impl Screen {
    /// An empty one.
    pub fn new(columns: usize) -> Screen {
        Screen { columns, rows: vec![Vec::new()], row: 0, column: 0, look: Look::default() }
    }

    /// How wide it is.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.rows.iter().all(Vec::is_empty)
    }

    /// The rows from the top, without empty ones at the end.
    pub fn rows(&self) -> &[Vec<Cell>] {
        let is_blank = |row: &&Vec<Cell>| row.iter().all(|cell| cell.text == ' ');
        let blank = self.rows.iter().rev().take_while(is_blank).count();
        &self.rows[..self.rows.len() - blank]
    }

    /// Takes what a program writes.
    pub fn feed(&mut self, text: &str) {
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '\r' => self.column = 0,
                '\n' => self.go_to(self.row + 1),
                '\x08' => self.column = self.column.saturating_sub(1),
                '\x1b' if chars.next_if_eq(&'[').is_some() => {
                    let mut numbers = String::new();
                    while let Some(c) = chars.next_if(|c| !('@'..='~').contains(c)) {
                        numbers.push(c);
                    }
                    if let Some(command) = chars.next() {
                        self.control(command, &numbers);
                    }
                }
                c if c.is_control() => {}
                c => self.put(c),
            }
        }
    }

    fn put(&mut self, text: char) {
        if self.column < self.columns {
            let row = &mut self.rows[self.row];
            if row.len() <= self.column {
                row.resize(self.column + 1, BLANK);
            }
            row[self.column] = Cell { text, look: self.look };
        }
        self.column += 1;
    }

    fn go_to(&mut self, row: usize) {
        self.row = row;
        if self.rows.len() <= row {
            self.rows.resize(row + 1, Vec::new());
        }
    }

    /// A control sequence: its last letter, and what stood before it.
    fn control(&mut self, command: char, numbers: &str) {
        let first = numbers.split(';').next().and_then(|number| number.parse::<usize>().ok());
        let count = first.unwrap_or(1).max(1);
        match command {
            'A' => self.row = self.row.saturating_sub(count),
            'B' => self.go_to(self.row + count),
            'C' => self.column += count,
            'D' => self.column = self.column.saturating_sub(count),
            'G' => self.column = count - 1,
            'J' => {
                self.rows.truncate(self.row + 1);
                self.rows[self.row].truncate(self.column);
            }
            'K' if first == Some(2) => self.rows[self.row].clear(),
            'K' => self.rows[self.row].truncate(self.column),
            'm' => numbers.split(';').for_each(|number| self.paint(number.parse().unwrap_or(0))),
            // Hiding the cursor and the like does not show.
            _ => {}
        }
    }

    fn paint(&mut self, number: u8) {
        match number {
            0 => self.look = Look::default(),
            1 => self.look.is_bold = true,
            2 => self.look.is_dim = true,
            22 => (self.look.is_bold, self.look.is_dim) = (false, false),
            30..=37 => self.look.colour = Some(number - 30),
            90..=97 => self.look.colour = Some(number - 90 + 8),
            39 => self.look.colour = None,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(written: &str) -> Vec<String> {
        let mut screen = Screen::new(8);
        screen.feed(written);
        let text = |row: &Vec<Cell>| row.iter().map(|cell| cell.text).collect::<String>();
        screen.rows().iter().map(text).collect()
    }

    #[test]
    fn a_program_writes_over_what_it_wrote() {
        let cases = [
            ("a\r\nb\r\n\r\n", vec!["a", "b"]),
            ("10%\r\x1b[2K99%\r\n", vec!["99%"]),
            ("one\r\ntwo\x1b[1A\r\x1b[Jx", vec!["x"]),
            ("123456789", vec!["12345678"]),
            ("a\x1b[3Gb\x1b[?25l", vec!["a b"]),
        ];
        for (written, rows) in cases {
            assert_eq!(shown(written), rows, "{written:?}");
        }
    }

    #[test]
    fn colours_last_until_they_are_taken_back() {
        let mut screen = Screen::new(8);
        screen.feed("\x1b[1;32ma\x1b[0mb\x1b[91mc");
        let looks: Vec<_> = screen.rows()[0].iter().map(|cell| cell.look).collect();
        let green = Look { colour: Some(2), is_bold: true, is_dim: false };
        let red = Look { colour: Some(9), ..Look::default() };
        assert_eq!(looks, [green, Look::default(), red]);
    }
}
