//! What was measured, as a table and as JSON.

use std::{fs, io};

use serde::Serialize;

/// The machine and the settings that the figures belong to.
#[derive(Clone, Debug, Serialize)]
pub struct Environment {
    /// Version of this program.
    pub version: &'static str,
    /// Whether it was built without optimisation: the figures then say nothing.
    pub debug_build: bool,
    /// Operating system and its release.
    pub kernel: String,
    /// Processor model.
    pub processor: String,
    /// Cores that this program may use.
    pub cores: usize,
    /// What new TCP sockets use.
    pub congestion_control: String,
    /// One-minute load average before the run.
    pub load_before: f64,
}

impl Environment {
    /// Reads it all from the system; what cannot be read is "unknown".
    pub fn read() -> Self {
        let word =
            |path: &str| fs::read_to_string(path).map_or_else(|_| "unknown".into(), |text| text.trim().to_owned());
        let processor = word("/proc/cpuinfo");
        let processor = processor.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            version: env!("CARGO_PKG_VERSION"),
            debug_build: cfg!(debug_assertions),
            kernel: format!("{} {}", std::env::consts::OS, word("/proc/sys/kernel/osrelease")),
            processor: processor.map_or_else(|| "unknown".into(), |(_, model)| model.to_owned()),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            congestion_control: word("/proc/sys/net/ipv4/tcp_congestion_control"),
            load_before: word("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(f64::NAN),
        }
    }

    /// What speaks against trusting the figures.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.debug_build {
            warnings.push("this is a debug build: its figures say nothing about a release build".to_owned());
        }
        if self.congestion_control == "bbr" {
            warnings.push(
                "TCP congestion control is bbr: its pacing moves the server's work to timers and to the reader. \
                 Better: sysctl -w net.ipv4.tcp_congestion_control=cubic"
                    .to_owned(),
            );
        }
        if self.load_before > 0.5 {
            warnings.push(format!("other work is running here (load average {})", self.load_before));
        }
        warnings
    }
}

/// What a figure is to reach.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// At most this many times the figure beside it.
    RatioMax(f64),
    /// At most this much.
    ValueMax(f64),
    /// Not once, in any round.
    Never,
}

/// One figure, measured once in each round.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Name of the scenario.
    pub scenario: String,
    /// What the figure is, with its unit.
    pub figure: String,
    /// The server's figure in each round.
    pub server: Vec<f64>,
    /// The floor's (or what else it is compared with) in the same rounds; empty if it stands alone.
    pub beside: Vec<f64>,
    /// What is to be reached.
    pub goal: Option<Goal>,
}

impl Row {
    /// A figure that stands alone.
    pub fn new(scenario: impl Into<String>, figure: impl Into<String>) -> Self {
        Self { scenario: scenario.into(), figure: figure.into(), server: Vec::new(), beside: Vec::new(), goal: None }
    }

    /// With something to reach.
    pub fn with_goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self
    }

    /// The server's figure over the one beside it, in each round where there is one above 0.
    pub fn ratios(&self) -> Vec<f64> {
        self.server
            .iter()
            .zip(&self.beside)
            .filter(|(_, beside)| **beside > 0.0)
            .map(|(own, beside)| own / beside)
            .collect()
    }

    /// Whether the median (for [`Goal::Never`], every round) reaches the goal; `None` without a goal or without figures.
    pub fn is_reached(&self) -> Option<bool> {
        let reached =
            |figures: &[f64], holds: &dyn Fn(f64) -> bool| (!figures.is_empty()).then(|| holds(median(figures)));
        match self.goal? {
            Goal::RatioMax(max) => reached(&self.ratios(), &|ratio| ratio <= max),
            Goal::ValueMax(max) => reached(&self.server, &|value| value <= max),
            Goal::Never => (!self.server.is_empty()).then(|| self.server.iter().all(|count| *count == 0.0)),
        }
    }
}

/// All figures of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Where.
    pub environment: Environment,
    /// What.
    pub rows: Vec<Row>,
    /// Scenarios without figures.
    pub failures: Vec<Failure>,
}

/// A scenario that could not be measured.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// Its name.
    pub scenario: String,
    /// Why.
    pub error: String,
}

impl Report {
    /// Everything for a terminal: machine, warnings, table, failures.
    pub fn text(&self) -> String {
        let Environment { version, kernel, processor, cores, congestion_control, load_before, .. } = &self.environment;
        let mut text = format!(
            "hydrant {version}, {kernel}, {cores} cores of {processor}\n\
             TCP congestion control {congestion_control}, load average before {load_before}\n"
        );
        for warning in self.environment.warnings() {
            text += &format!("warning: {warning}\n");
        }
        text += "\n";
        text += &self.table();
        for Failure { scenario, error } in &self.failures {
            text += &format!("\n{scenario} failed: {error}\n");
        }
        text
    }

    /// The table, one line a figure.
    pub fn table(&self) -> String {
        let mut lines =
            vec![["scenario", "figure", "server", "beside", "ratio (min..max)", "goal", ""].map(str::to_owned)];
        for row in &self.rows {
            let ratios = row.ratios();
            let ratio = match (ratios.as_slice(), extremes(&ratios)) {
                ([], _) => String::new(),
                (_, (min, max)) => format!("{} ({}..{})", short(median(&ratios)), short(min), short(max)),
            };
            let goal = match row.goal {
                None => String::new(),
                Some(Goal::RatioMax(max)) => format!("<= {} x", short(max)),
                Some(Goal::ValueMax(max)) => format!("<= {}", short(max)),
                Some(Goal::Never) => "0".to_owned(),
            };
            let verdict = row.is_reached().map_or("", |reached| if reached { "ok" } else { "miss" });
            let middle = |figures: &[f64]| if figures.is_empty() { String::new() } else { short(median(figures)) };
            let server = match row.goal {
                Some(Goal::Never) => format!("{}", row.server.iter().sum::<f64>()),
                _ => middle(&row.server),
            };
            let beside = middle(&row.beside);
            lines.push([row.scenario.clone(), row.figure.clone(), server, beside, ratio, goal, verdict.to_owned()]);
        }
        let mut widths = [0; 7];
        for line in &lines {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut table = String::new();
        for line in &lines {
            let cells: Vec<String> = line
                .iter()
                .zip(widths)
                .enumerate()
                .map(|(column, (cell, width))| match column {
                    2 | 3 => format!("{cell:>width$}"), // figures
                    _ => format!("{cell:<width$}"),
                })
                .collect();
            table += cells.join("  ").trim_end();
            table += "\n";
        }
        table
    }

    /// Writes everything, each round's figures included.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_json(&self, path: &std::path::Path) -> io::Result<()> {
        fs::write(path, serde_json::to_vec_pretty(self)?)
    }
}

/// The middle figure (of an even number, the mean of the two in the middle); NaN of none.
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The smallest figure that at least `percent` of all figures do not exceed; NaN of none.
pub fn percentile(figures: &[f64], percent: usize) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

fn extremes(figures: &[f64]) -> (f64, f64) {
    figures.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(min, max), figure| (min.min(*figure), max.max(*figure)))
}

/// Three digits that matter.
fn short(figure: f64) -> String {
    match figure.abs() {
        large if large >= 100.0 => format!("{figure:.0}"),
        middle if middle >= 10.0 => format!("{figure:.1}"),
        small if small >= 1.0 || small == 0.0 => format!("{figure:.2}"),
        _ => format!("{figure:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(server: &[f64], beside: &[f64], goal: Option<Goal>) -> Row {
        Row { scenario: "s".into(), figure: "f".into(), server: server.to_vec(), beside: beside.to_vec(), goal }
    }

    #[test]
    fn middles_and_percentiles() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        let check = |figures: &[f64], percent, expected| assert_eq!(percentile(figures, percent), expected);
        check(&hundred, 50, 50.0);
        check(&hundred, 99, 99.0);
        check(&hundred[..10], 99, 10.0);
        check(&hundred[..1], 50, 1.0);
        assert!(percentile(&[], 50).is_nan());
    }

    #[test]
    fn goals_are_held_against_medians() {
        let check = |server: &[f64], beside: &[f64], goal, expected| {
            assert_eq!(row(server, beside, Some(goal)).is_reached(), expected, "{server:?} {beside:?} {goal:?}");
        };
        check(&[1.0, 9.0, 1.2], &[1.0, 1.0, 1.0], Goal::RatioMax(1.3), Some(true));
        check(&[1.4, 9.0, 1.2], &[1.0, 1.0, 1.0], Goal::RatioMax(1.3), Some(false));
        check(&[1.0], &[0.0], Goal::RatioMax(1.3), None);
        check(&[60.0], &[], Goal::ValueMax(60.0), Some(true));
        check(&[0.0, 0.0], &[], Goal::Never, Some(true));
        check(&[0.0, 1.0, 0.0], &[], Goal::Never, Some(false));
        check(&[], &[], Goal::Never, None);
        check(&[], &[], Goal::ValueMax(1.0), None);
        assert_eq!(row(&[1.0], &[], None).is_reached(), None);
    }

    #[test]
    fn the_table_shows_figure_floor_ratio_goal_and_verdict() {
        let report = Report {
            environment: Environment::read(),
            rows: vec![
                row(&[5.5, 6.0, 5.0], &[5.0, 5.0, 5.0], Some(Goal::RatioMax(1.3))),
                row(&[1234.0], &[], Some(Goal::ValueMax(60.0))),
                row(&[0.0, 7.0, 0.0], &[], Some(Goal::Never)),
                row(&[0.0], &[], None),
            ],
            failures: vec![Failure { scenario: "t".into(), error: "why".into() }],
        };
        assert!(report.text().ends_with("\nt failed: why\n"));
        let expected = "\
scenario  figure  server  beside  ratio (min..max)  goal
s         f         5.50    5.00  1.10 (1.00..1.20)  <= 1.30 x  ok
s         f         1234                             <= 60.0    miss
s         f         7                                0          miss
s         f         0.00
";
        let squeeze = |text: &str| {
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
        };
        assert_eq!(squeeze(&report.table()), squeeze(expected));
        let starts: Vec<_> = report.table().lines().filter_map(|line| line.find("<=")).collect();
        assert_eq!(starts[0], starts[1], "columns stand under each other");
    }

    #[test]
    fn json_keeps_every_round() {
        let row = row(&[1.0, 2.0], &[1.0, 1.0], Some(Goal::RatioMax(1.3)));
        let json = serde_json::to_value(Report { environment: Environment::read(), rows: vec![row], failures: vec![] })
            .unwrap();
        assert_eq!(json["rows"][0]["server"], serde_json::json!([1.0, 2.0]));
        assert_eq!(json["rows"][0]["goal"]["ratio_max"], 1.3);
    }

    #[test]
    fn doubtful_conditions_are_named() {
        let mut environment = Environment { debug_build: false, load_before: 0.1, ..Environment::read() };
        environment.congestion_control = "cubic".into();
        assert!(environment.warnings().is_empty());
        environment.congestion_control = "bbr".into();
        assert!(environment.warnings()[0].contains("net.ipv4.tcp_congestion_control=cubic"));
    }
}
