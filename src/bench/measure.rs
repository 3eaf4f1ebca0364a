//! Figures: what was measured, what is to be reached, and whether it may be judged at all.

use serde::{Serialize, Serializer};

/// The share of its time that the reading thread may be on a CPU: beyond, events wait for the client.
pub const BUSY_MAX: f64 = 0.85;
/// How late looks at the sockets, or sending, may be by the client's fault where delays are measured, p99...
pub const LATE_MS_MAX: f64 = 5.0;
/// ...unless it is a small part of the delay itself.
pub const LATE_SHARE_MAX: f64 = 0.25;

/// The named figures of one measurement; units stand at the end of their names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measure(Vec<(&'static str, f64)>);

impl Measure {
    /// Adds a figure, or replaces it.
    pub fn set(&mut self, name: &'static str, value: f64) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.0.push((name, value)),
        }
    }

    /// Adds a figure where it is known.
    pub fn set_known(&mut self, name: &'static str, value: Option<f64>) {
        if let Some(value) = value {
            self.set(name, value);
        }
    }

    /// The figure of that name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    /// The middle of each figure of several measurements.
    pub fn medians(measures: &[Self]) -> Self {
        let names = measures.first().map(|first| first.0.iter().map(|(name, _)| *name)).into_iter().flatten();
        Self(names.map(|name| (name, median(&figures(measures, name)))).collect())
    }
}

impl Serialize for Measure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, json_number(*value))))
    }
}

/// A number without `.0` behind a whole one, and `null` for what is none; six digits behind the point at most.
pub fn json_number(value: f64) -> serde_json::Value {
    if value.fract() == 0.0 && value.abs() < 9e15 {
        return (value as i64).into();
    }
    ((value * 1e6).round() / 1e6).into()
}

/// A figure of several measurements, where they have it.
pub fn figures(measures: &[Measure], name: &str) -> Vec<f64> {
    measures.iter().filter_map(|measure| measure.get(name)).collect()
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

/// What a figure depends on at the client's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: memory, or a count of what must not happen.
    Nothing,
    /// A client that keeps up: deliveries in a second.
    Reader,
    /// The same of the server's client only. CPU time is counted per delivery: with a client that lags, a server joins
    /// more messages into a write, and seems cheaper; a floor makes the same writes whoever reads them.
    Work,
    /// Also one that looks and sends in time, beside the delay of this name.
    Delay(&'static str),
}

/// Whether a goal is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It is.
    Reached,
    /// It is not.
    Missed,
    /// The client was the bottleneck: the figure says nothing about the server.
    ClientBound,
}

/// A figure that is shown and judged.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Its name in the measures.
    pub name: &'static str,
    /// What it is, with its unit, for people.
    pub label: String,
    /// What is to be reached.
    pub goal: Option<Goal>,
    /// What it depends on at the client's side.
    pub needs: Needs,
}

impl Figure {
    /// A figure that depends on a client that keeps up.
    pub fn new(name: &'static str, label: impl Into<String>) -> Self {
        Self { name, label: label.into(), goal: None, needs: Needs::Reader }
    }

    /// CPU time for a piece of work.
    pub fn work(name: &'static str, label: impl Into<String>) -> Self {
        Self { needs: Needs::Work, ..Self::new(name, label) }
    }

    /// A delay, in milliseconds.
    pub fn delay(name: &'static str, label: impl Into<String>) -> Self {
        Self { needs: Needs::Delay(name), ..Self::new(name, label) }
    }

    /// A usual delay, as sound as the longest are.
    pub fn median_delay(label: impl Into<String>) -> Self {
        Self { needs: Needs::Delay("p99_ms"), ..Self::new("p50_ms", label) }
    }

    /// A figure that the client has no part in.
    pub fn plain(name: &'static str, label: impl Into<String>) -> Self {
        Self { needs: Needs::Nothing, ..Self::new(name, label) }
    }

    /// With something to reach.
    pub fn goal(self, goal: Goal) -> Self {
        Self { goal: Some(goal), ..self }
    }
}

/// Whether the client was the bottleneck of what such a figure says, and if so, in which way.
pub fn client_bound(measure: &Measure, needs: Needs) -> Option<String> {
    if needs == Needs::Nothing {
        return None;
    }
    let busy = measure.get("client_busy").unwrap_or(0.0);
    if busy > BUSY_MAX {
        return Some(format!("a client thread was busy {:.0} % of its time", busy * 100.0));
    }
    let Needs::Delay(name) = needs else { return None };
    let late_max = (measure.get(name).unwrap_or(0.0) * LATE_SHARE_MAX).max(LATE_MS_MAX);
    let late = |name, what: &str| {
        let ms = measure.get(name).unwrap_or(0.0);
        (ms > late_max).then(|| format!("{what} {ms:.1} ms late (p99, by its own fault)"))
    };
    late("look_gap_p99_ms", "the client looked at its sockets up to")
        .or_else(|| late("publisher_late_p99_ms", "the client sent up to"))
}

/// One case of a scenario: measured several times, mostly beside a floor.
#[derive(Clone, Debug)]
pub struct Case {
    /// The scenario's name.
    pub scenario: &'static str,
    /// Which case of it.
    pub case: String,
    /// What stands beside the server.
    pub beside_what: &'static str,
    /// The server's figures in each round.
    pub server: Vec<Measure>,
    /// What stands beside it, in the same rounds; empty if nothing does.
    pub beside: Vec<Measure>,
    /// What is shown and judged.
    pub figures: Vec<Figure>,
    /// What was seen on the way, where a scenario looks at intervals.
    pub samples: Vec<Measure>,
}

impl Case {
    /// The server's figure over the one beside it, in each round where there is one above 0.
    pub fn ratios(&self, figure: &Figure) -> Vec<f64> {
        let pairs = self.server.iter().zip(&self.beside);
        pairs
            .filter_map(|(server, beside)| Some((server.get(figure.name)?, beside.get(figure.name)?)))
            .filter(|(_, beside)| *beside > 0.0)
            .map(|(server, beside)| server / beside)
            .collect()
    }

    /// Why the figure's median is the client's rather than the server's: half of the rounds were, on the server's side, or on
    /// the other one where a ratio is looked at.
    pub fn client_bound(&self, figure: &Figure) -> Option<String> {
        let half_bound = |measures: &[Measure]| {
            let reasons: Vec<String> = measures.iter().filter_map(|one| client_bound(one, figure.needs)).collect();
            (!reasons.is_empty() && reasons.len() * 2 >= measures.len()).then(|| reasons[0].clone())
        };
        let beside = || half_bound(&self.beside).map(|reason| format!("{}: {reason}", self.beside_what));
        let is_ratio = matches!(figure.goal, None | Some(Goal::RatioMax(_))) && figure.needs != Needs::Work;
        half_bound(&self.server).or_else(|| if is_ratio { beside() } else { None })
    }

    /// Whether the median (for [`Goal::Never`], every round) reaches the goal; `None` without a goal or without figures.
    pub fn verdict(&self, figure: &Figure) -> Option<Verdict> {
        let goal = figure.goal?;
        let server = figures(&self.server, figure.name);
        let (values, holds): (_, &dyn Fn(f64) -> bool) = match goal {
            Goal::RatioMax(max) => (self.ratios(figure), &move |ratio| ratio <= max),
            Goal::ValueMax(max) => (server, &move |value| value <= max),
            Goal::Never => {
                (vec![server.iter().sum()].into_iter().filter(|_| !server.is_empty()).collect(), &|sum| sum == 0.0)
            }
        };
        if values.is_empty() {
            return None;
        }
        Some(match self.client_bound(figure) {
            Some(_) => Verdict::ClientBound,
            None if holds(median(&values)) => Verdict::Reached,
            None => Verdict::Missed,
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn measure(figures: &[(&'static str, f64)]) -> Measure {
        Measure(figures.to_vec())
    }

    fn case(server: &[f64], beside: &[f64], goal: Goal) -> (Case, Figure) {
        let measures = |values: &[f64]| values.iter().map(|value| measure(&[("a", *value)])).collect();
        let figure = Figure::plain("a", "a").goal(goal);
        let (server, beside) = (measures(server), measures(beside));
        (
            Case {
                scenario: "s",
                case: "c".into(),
                beside_what: "floor",
                server,
                beside,
                figures: vec![figure.clone()],
                samples: Vec::new(),
            },
            figure,
        )
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
        let medians = Measure::medians(&[measure(&[("a", 1.0), ("b", 5.0)]), measure(&[("a", 3.0), ("b", 5.0)])]);
        assert_eq!(medians, measure(&[("a", 2.0), ("b", 5.0)]));
    }

    #[test]
    fn goals_are_held_against_medians() {
        let check = |server: &[f64], beside: &[f64], goal, expected| {
            let (case, figure) = case(server, beside, goal);
            assert_eq!(case.verdict(&figure), expected, "{server:?} {beside:?} {goal:?}");
        };
        let (reached, missed) = (Some(Verdict::Reached), Some(Verdict::Missed));
        check(&[1.0, 9.0, 1.2], &[1.0, 1.0, 1.0], Goal::RatioMax(1.3), reached);
        check(&[1.4, 9.0, 1.2], &[1.0, 1.0, 1.0], Goal::RatioMax(1.3), missed);
        check(&[1.0], &[0.0], Goal::RatioMax(1.3), None);
        check(&[60.0], &[], Goal::ValueMax(60.0), reached);
        check(&[0.0, 0.0], &[], Goal::Never, reached);
        check(&[0.0, 1.0, 0.0], &[], Goal::Never, missed);
        check(&[], &[], Goal::Never, None);
        check(&[], &[], Goal::ValueMax(1.0), None);
    }

    #[test]
    fn a_client_that_is_the_bottleneck_is_found_out() {
        let check = |busy: f64, gap: f64, late: f64, delay: f64, needs, expected: Option<&str>| {
            let measure = measure(&[
                ("client_busy", busy),
                ("look_gap_p99_ms", gap),
                ("publisher_late_p99_ms", late),
                ("p99_ms", delay),
            ]);
            let reason = client_bound(&measure, needs);
            assert_eq!(reason.is_some(), expected.is_some(), "{reason:?}");
            assert!(reason.unwrap_or_default().contains(expected.unwrap_or_default()));
        };
        let delay = Needs::Delay("p99_ms");
        check(0.5, 1.0, 0.1, 10.0, delay, None);
        check(0.9, 1.0, 0.1, 10.0, delay, Some("busy 90 %"));
        check(0.9, 1.0, 0.1, 10.0, Needs::Reader, Some("busy 90 %"));
        check(0.9, 1.0, 0.1, 10.0, Needs::Nothing, None);
        check(0.5, 6.0, 0.1, 10.0, delay, Some("looked at its sockets up to 6.0 ms"));
        check(0.5, 6.0, 0.1, 30.0, delay, None); // a small part of the delay
        check(0.5, 1.0, 20.0, 30.0, delay, Some("sent up to 20.0 ms"));
        check(0.5, 20.0, 20.0, 30.0, Needs::Reader, None);
        assert_eq!(client_bound(&Measure::default(), delay), None);
    }

    #[test]
    fn no_verdict_rests_on_a_client_bound_round() {
        let (mut case, _) = case(&[1.0, 1.0, 1.0], &[1.0, 1.0, 1.0], Goal::RatioMax(1.3));
        let figure = Figure::new("a", "a").goal(Goal::RatioMax(1.3));
        case.server[0].set("client_busy", 0.9);
        assert_eq!(case.verdict(&figure), Some(Verdict::Reached), "one of three");
        case.server[1].set("client_busy", 0.9);
        assert_eq!(case.verdict(&figure), Some(Verdict::ClientBound));
        case.server = case.beside.clone();
        case.beside.iter_mut().for_each(|beside| beside.set("client_busy", 1.0));
        assert_eq!(case.verdict(&figure), Some(Verdict::ClientBound), "of the floor");
        assert!(case.client_bound(&figure).unwrap().starts_with("floor: "));
        assert_eq!(case.client_bound(&figure.goal(Goal::ValueMax(1.0))), None, "which has no part in it");
        let work = Figure::work("a", "a").goal(Goal::RatioMax(1.3));
        assert_eq!(case.verdict(&work), Some(Verdict::Reached), "the floor does the same work whoever reads");
        std::mem::swap(&mut case.server, &mut case.beside);
        assert_eq!(case.verdict(&work), Some(Verdict::ClientBound));
    }

    #[test]
    fn numbers_are_written_as_people_read_them() {
        let json = serde_json::to_string(&measure(&[("a", 3.0), ("b", 0.123_456_78), ("c", f64::NAN)])).unwrap();
        assert_eq!(json, r#"{"a":3,"b":0.123457,"c":null}"#);
    }
}
