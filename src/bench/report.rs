//! What was measured, as a table for people and as one line of JSON for programs.

use std::fs;

use serde::Serialize;
use serde_json::{Value, json};

use super::Transport;
use super::measure::{Case, Figure, Goal, Measure, Verdict, figures, json_number, median};

/// Of the JSON line; grows when the meaning of a field changes.
const FORMAT: u32 = 1;
/// One-minute load average beyond which other work is in the way.
const LOAD_MAX: f64 = 0.5;

/// The machine and the settings that the figures belong to.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
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

impl Machine {
    /// Reads it all from the system; what cannot be read is "unknown".
    pub fn read() -> Self {
        let word =
            |path: &str| fs::read_to_string(path).map_or_else(|_| "unknown".into(), |text| text.trim().to_owned());
        let processor = word("/proc/cpuinfo");
        let processor = processor.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            kernel: format!("{} {}", std::env::consts::OS, word("/proc/sys/kernel/osrelease")),
            processor: processor.map_or_else(|| "unknown".into(), |(_, model)| model.to_owned()),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            congestion_control: word("/proc/sys/net/ipv4/tcp_congestion_control"),
            load_before: word("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(f64::NAN),
        }
    }

    /// What speaks against trusting the figures.
    pub fn warnings(&self, is_debug_build: bool) -> Vec<String> {
        let mut warnings = Vec::new();
        if is_debug_build {
            warnings.push("this is a debug build: its figures say nothing about a release build".to_owned());
        }
        if self.congestion_control == "bbr" {
            warnings.push(
                "TCP congestion control is bbr: its pacing moves the server's work to timers and to the reader. \
                 Better: sysctl -w net.ipv4.tcp_congestion_control=cubic"
                    .to_owned(),
            );
        }
        if self.load_before > LOAD_MAX {
            warnings.push(format!("other work is running here (load average {})", self.load_before));
        }
        if self.cores < 2 {
            warnings.push("client and server share one core".to_owned());
        }
        warnings
    }
}

/// What was driven.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The protocol.
    pub target: &'static str,
    /// Its URL; `None`: this program's own server.
    pub url: Option<String>,
    /// Whether everything was tiny: then nothing is judged.
    pub is_quick: bool,
    /// How clients spoke.
    pub transport: Transport,
}

/// A scenario that could not be measured.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// Its name.
    pub scenario: &'static str,
    /// Why.
    pub error: String,
}

/// All figures of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// What.
    pub subject: Subject,
    /// Where.
    pub machine: Machine,
    /// The figures.
    pub cases: Vec<Case>,
    /// Scenarios without figures.
    pub failures: Vec<Failure>,
}

impl Report {
    /// What the whole run comes to; `None`: there was nothing to judge.
    pub fn verdict(&self) -> Option<Verdict> {
        if self.subject.is_quick {
            return None;
        }
        let shown = || self.cases.iter().flat_map(|case| case.figures.iter().map(move |figure| (case, figure)));
        let verdicts: Vec<Verdict> = shown().filter_map(|(case, figure)| case.verdict(figure)).collect();
        // where nothing has a goal, a figure that is the client's is what has to be told
        let is_client_bound = verdicts.contains(&Verdict::ClientBound)
            || verdicts.is_empty() && shown().any(|(case, figure)| case.client_bound(figure).is_some());
        match verdicts {
            _ if is_client_bound => Some(Verdict::ClientBound),
            verdicts if verdicts.is_empty() => None,
            verdicts if verdicts.contains(&Verdict::Missed) => Some(Verdict::Missed),
            _ => Some(Verdict::Reached),
        }
    }

    /// Everything for a terminal: machine, warnings, table, what cannot be judged, failures.
    pub fn text(&self) -> String {
        let Machine { kernel, processor, cores, congestion_control, load_before } = &self.machine;
        let Subject { target, url, .. } = &self.subject;
        let mut text = format!(
            "hydrant {} drove {} ({target})\n{kernel}, {cores} cores of {processor}, {congestion_control}, \
             load average before {load_before}\n",
            env!("CARGO_PKG_VERSION"),
            url.as_deref().unwrap_or("its own server"),
        );
        if self.subject.transport.is_deflate {
            text += "with permessage-deflate; floors send plain frames\n";
        }
        if self.subject.transport.is_tls {
            text += "over TLS, each handshake in full, certificates not verified; floors are plain, and nothing is held against them\n";
        }
        for warning in self.machine.warnings(cfg!(debug_assertions)) {
            text += &format!("warning: {warning}\n");
        }
        text += "\n";
        text += &self.table();
        for (case, labels, reason) in self.client_bound() {
            text += &format!("\nclient-bound, no verdict: {case}: {}: {reason}\n", labels.join("; "));
        }
        for Failure { scenario, error } in &self.failures {
            text += &format!("\n{scenario} failed: {error}\n");
        }
        text
    }

    /// Cases with the figures that are the client's, and why.
    fn client_bound(&self) -> Vec<(String, Vec<&str>, String)> {
        let mut found: Vec<(String, Vec<&str>, String)> = Vec::new();
        for case in self.cases.iter().filter(|_| !self.subject.is_quick) {
            for figure in &case.figures {
                let Some(reason) = case.client_bound(figure) else { continue };
                let name = format!("{} {}", case.scenario, case.case);
                match found.last_mut() {
                    Some((last, labels, why)) if *last == name && *why == reason => labels.push(&figure.label),
                    _ => found.push((name, vec![&figure.label], reason)),
                }
            }
        }
        found
    }

    /// The table, one line a figure.
    pub fn table(&self) -> String {
        let mut lines = vec![["case", "figure", "server", "beside", "ratio (min..max)", "goal", ""].map(str::to_owned)];
        for case in &self.cases {
            let mut name = format!("{} {}", case.scenario, case.case).trim_end().to_owned();
            for figure in &case.figures {
                lines.push(self.line(std::mem::take(&mut name), case, figure));
            }
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

    fn line(&self, name: String, case: &Case, figure: &Figure) -> [String; 7] {
        let ratios = case.ratios(figure);
        let ratio = match extremes(&ratios) {
            None => String::new(),
            Some((min, max)) => format!("{} ({}..{})", short(median(&ratios)), short(min), short(max)),
        };
        let goal = match figure.goal {
            None => String::new(),
            Some(Goal::RatioMax(max)) => format!("<= {} x", short(max)),
            Some(Goal::ValueMax(max)) => format!("<= {}", short(max)),
            Some(Goal::Never) => "0".to_owned(),
        };
        let verdict = match case.verdict(figure) {
            _ if self.subject.is_quick => "",
            Some(Verdict::Reached) => "ok",
            Some(Verdict::Missed) => "MISSED",
            Some(Verdict::ClientBound) => "client-bound",
            None => case.client_bound(figure).map_or("", |_| "client-bound"),
        };
        let middle = |measures: &[Measure]| {
            let values = figures(measures, figure.name);
            if values.is_empty() { "-".to_owned() } else { short(median(&values)) }
        };
        let server = match figure.goal {
            Some(Goal::Never) => format!("{}", figures(&case.server, figure.name).iter().sum::<f64>()),
            _ => middle(&case.server),
        };
        let beside = if case.beside.is_empty() { String::new() } else { middle(&case.beside) };
        [name, figure.label.clone(), server, beside, ratio, goal, verdict.to_owned()]
    }

    /// Everything, each round's figures included; `docs/performance.md` has the fields.
    pub fn json(&self) -> Value {
        json!({
            "format": FORMAT,
            "version": env!("CARGO_PKG_VERSION"),
            "debug_build": cfg!(debug_assertions),
            "target": self.subject.target,
            "server": self.subject.url.as_deref().unwrap_or("own"),
            "quick": self.subject.is_quick,
            "tls": self.subject.transport.is_tls,
            "deflate": self.subject.transport.is_deflate,
            "machine": self.machine,
            "warnings": self.machine.warnings(cfg!(debug_assertions)),
            "verdict": self.verdict(),
            "cases": self.cases.iter().map(|case| self.case_json(case)).collect::<Vec<_>>(),
            "failures": self.failures,
        })
    }

    fn case_json(&self, case: &Case) -> Value {
        let is_judged = !self.subject.is_quick;
        let figure = |figure: &Figure| {
            let ratios = case.ratios(figure);
            let numbers = |values: Vec<f64>| values.into_iter().map(json_number).collect::<Vec<_>>();
            json!({
                "figure": figure.name,
                "label": figure.label,
                "server": numbers(figures(&case.server, figure.name)),
                "beside": numbers(figures(&case.beside, figure.name)),
                "ratio": json_number(median(&ratios)),
                "ratio_min": extremes(&ratios).map(|(min, _)| json_number(min)),
                "ratio_max": extremes(&ratios).map(|(_, max)| json_number(max)),
                "goal": figure.goal,
                "verdict": case.verdict(figure).filter(|_| is_judged),
                "client_bound": case.client_bound(figure).filter(|_| is_judged),
            })
        };
        let medians = |measures: &[Measure]| (!measures.is_empty()).then(|| Measure::medians(measures));
        json!({
            "scenario": case.scenario,
            "case": case.case,
            "rounds": case.server.len(),
            "server": medians(&case.server),
            "beside": medians(&case.beside),
            "beside_what": case.beside_what,
            "figures": case.figures.iter().map(figure).collect::<Vec<_>>(),
            "samples": case.samples,
        })
    }
}

fn extremes(figures: &[f64]) -> Option<(f64, f64)> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    Some((*sorted.first()?, *sorted.last()?))
}

/// Three digits that matter.
pub fn short(figure: f64) -> String {
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

    fn measures(values: &[f64], busy: f64) -> Vec<Measure> {
        let measure = |value: &f64| {
            let mut measure = Measure::default();
            measure.set("f", *value);
            measure.set("client_busy", busy);
            measure
        };
        values.iter().map(measure).collect()
    }

    fn case(server: &[f64], beside: &[f64], busy: f64, figure: Figure) -> Case {
        let (server, beside) = (measures(server, busy), measures(beside, 0.1));
        let (figures, samples) = (vec![figure], Vec::new());
        Case { scenario: "s", case: "c".into(), beside_what: "floor", server, beside, figures, samples }
    }

    fn report(cases: Vec<Case>) -> Report {
        let subject = Subject { target: "pusher", url: None, is_quick: false, transport: Transport::default() };
        let failures = vec![Failure { scenario: "t", error: "why".into() }];
        Report { subject, machine: Machine::read(), cases, failures }
    }

    fn figure(goal: Option<Goal>) -> Figure {
        Figure { goal, ..Figure::new("f", "f") }
    }

    #[test]
    fn the_table_shows_figure_floor_ratio_goal_and_verdict() {
        let report = report(vec![
            case(&[5.5, 6.0, 5.0], &[5.0, 5.0, 5.0], 0.1, figure(Some(Goal::RatioMax(1.3)))),
            case(&[1234.0], &[], 0.1, figure(Some(Goal::ValueMax(60.0)))),
            case(&[0.0, 7.0, 0.0], &[], 0.1, figure(Some(Goal::Never))),
            case(&[0.0], &[], 0.1, figure(None)),
            case(&[0.5], &[], 0.9, figure(Some(Goal::ValueMax(1.0)))),
        ]);
        assert!(report.text().ends_with("\nt failed: why\n"));
        let bound = "\nclient-bound, no verdict: s c: f: a client thread was busy 90 % of its time";
        assert!(report.text().contains(bound), "{}", report.text());
        let expected = "\
case figure server beside ratio (min..max) goal
s c f 5.50 5.00 1.10 (1.00..1.20) <= 1.30 x ok
s c f 1234 <= 60.0 MISSED
s c f 7 0 MISSED
s c f 0.00
s c f 0.500 <= 1.00 client-bound
";
        let squeeze = |text: &str| {
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
        };
        assert_eq!(squeeze(&report.table()), squeeze(expected));
        let starts: Vec<_> = report.table().lines().filter_map(|line| line.find("<=")).collect();
        assert_eq!(starts[0], starts[1], "columns stand under each other");
    }

    #[test]
    fn a_run_that_is_client_bound_somewhere_has_no_other_verdict() {
        let check = |cases, expected| assert_eq!(report(cases).verdict(), expected);
        let goal = || figure(Some(Goal::ValueMax(1.0)));
        check(vec![], None);
        check(vec![case(&[0.5], &[], 0.1, goal())], Some(Verdict::Reached));
        check(vec![case(&[0.5], &[], 0.1, goal()), case(&[2.0], &[], 0.1, goal())], Some(Verdict::Missed));
        check(vec![case(&[0.5], &[], 0.9, goal()), case(&[2.0], &[], 0.1, goal())], Some(Verdict::ClientBound));
        // what has no goal is not judged, unless nothing has one
        check(vec![case(&[0.5], &[], 0.9, figure(None)), case(&[0.5], &[], 0.1, goal())], Some(Verdict::Reached));
        check(vec![case(&[0.5], &[], 0.9, figure(None))], Some(Verdict::ClientBound));
        let mut quick = report(vec![case(&[2.0], &[], 0.9, goal())]);
        quick.subject.is_quick = true;
        assert_eq!(quick.verdict(), None);
    }

    #[test]
    fn json_keeps_every_round_on_one_line() {
        let report = report(vec![case(&[1.0, 2.0], &[1.0, 1.0], 0.1, figure(Some(Goal::RatioMax(1.3))))]);
        let line = report.json().to_string();
        assert!(!line.contains('\n'));
        let json: Value = serde_json::from_str(&line).unwrap();
        let case = &json["cases"][0];
        assert_eq!(case["figures"][0]["server"], json!([1, 2]));
        assert_eq!(case["figures"][0]["goal"]["ratio_max"], 1.3);
        assert_eq!(case["figures"][0]["verdict"], "missed");
        assert_eq!((&case["server"]["f"], &case["beside"]["f"]), (&json!(1.5), &json!(1)));
        assert_eq!((&json["verdict"], &json["server"]), (&json!("missed"), &json!("own")));
    }

    #[test]
    fn doubtful_conditions_are_named() {
        let mut machine = Machine { load_before: 0.1, cores: 2, ..Machine::read() };
        machine.congestion_control = "cubic".into();
        assert!(machine.warnings(false).is_empty());
        machine.congestion_control = "bbr".into();
        assert!(machine.warnings(false)[0].contains("net.ipv4.tcp_congestion_control=cubic"));
        machine.load_before = 3.0;
        assert_eq!(machine.warnings(true).len(), 3);
    }
}
