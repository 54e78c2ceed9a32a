//! A screen as SVG: a window with a title, and each run of characters that look alike as one text.

use std::fmt::Write as _;

use super::screen::{Cell, Look, Screen};

/// Width and height of a character.
const CELL_WIDTH: f64 = 7.8;
const CELL_HEIGHT: f64 = 18.0;
/// Between the window's edge and the text.
const MARGIN: f64 = 16.0;
/// The bar with the title.
const BAR: f64 = 30.0;
const BACKGROUND: &str = "#16181d";
const FOREGROUND: &str = "#d7dae0";
/// The eight colours, and the eight bright ones.
const COLOURS: [&str; 16] = [
    "#3b4048", "#e06c75", "#98c379", "#e5c07b", "#61afef", "#c678dd", "#56b6c2", "#d7dae0",
    "#5c6370", "#ff7b86", "#b5e890", "#ffd78a", "#7cc7ff", "#de8ff5", "#6fd3df", "#ffffff",
];

/// Draws it.
pub fn draw(screen: &Screen, title: &str) -> String {
    let rows = screen.rows();
    let width = 2.0 * MARGIN + screen.columns() as f64 * CELL_WIDTH;
    let height = BAR + 2.0 * MARGIN + rows.len() as f64 * CELL_HEIGHT;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         font-family=\"ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace\" font-size=\"13\">\n\
         <!-- made by `cargo xtask picture` -->\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"{BACKGROUND}\"/>\n\
         <text x=\"50%\" y=\"20\" text-anchor=\"middle\" fill=\"#7f848e\">{title}</text>\n"
    );
    for (place, colour) in ["#e06c75", "#e5c07b", "#98c379"].iter().enumerate() {
        let x = 18 + 18 * place;
        let _ = writeln!(svg, "<circle cx=\"{x}\" cy=\"15\" r=\"5.5\" fill=\"{colour}\"/>");
    }
    for (number, row) in rows.iter().enumerate() {
        let y = BAR + MARGIN + number as f64 * CELL_HEIGHT + 9.0;
        draw_row(&mut svg, row, y);
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw_row(svg: &mut String, row: &[Cell], y: f64) {
    let mut column = 0;
    for run in row.chunk_by(|one, next| one.look == next.look) {
        let text: String = run.iter().map(|cell| cell.text).collect();
        let blanks = text.chars().take_while(|c| *c == ' ').count();
        let shown = text.trim();
        if !shown.is_empty() {
            let x = MARGIN + (column + blanks) as f64 * CELL_WIDTH;
            // So that columns stay under each other whatever font a reader has.
            let length = shown.chars().count() as f64 * CELL_WIDTH;
            let _ = writeln!(
                svg,
                "<text x=\"{x:.1}\" y=\"{y:.1}\" textLength=\"{length:.1}\" xml:space=\"preserve\" {}>{}</text>",
                style(run[0].look),
                escaped(shown)
            );
        }
        column += run.len();
    }
}

fn style(look: Look) -> String {
    let colour = look.colour.map_or(FOREGROUND, |colour| COLOURS[usize::from(colour) % 16]);
    let weight = if look.is_bold { " font-weight=\"bold\"" } else { "" };
    let opacity = if look.is_dim { " opacity=\"0.6\"" } else { "" };
    format!("fill=\"{colour}\"{weight}{opacity}")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_stand_where_they_stood() {
        let mut screen = Screen::new(10);
        screen.feed("a  \x1b[2m<b>\x1b[0m");
        let svg = draw(&screen, "t");
        let at = MARGIN + 3.0 * CELL_WIDTH;
        assert!(svg.contains(&format!("x=\"{at:.1}\"")), "{svg}");
        assert!(svg.contains("opacity=\"0.6\">&lt;b&gt;</text>"), "{svg}");
    }
}
