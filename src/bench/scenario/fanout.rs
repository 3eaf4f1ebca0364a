//! Events to many subscribers of one channel.

use std::time::Duration;

use anyhow::Result;

use super::*;

/// Messages to subscribers of one channel.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    name: String,
    pub(super) subscribers: usize,
    frame_bytes: usize,
    messages: u32,
    interval: Duration,
    /// How often the messages are sent, each time after the last have arrived.
    times: u32,
    /// At most so many times the floor's CPU time.
    cpu_goal: Option<f64>,
    /// What the slowest subscriber's delay is held against.
    last_goal: Option<Goal>,
}

/// What is measured: the shape that was asked for, or those with goals.
pub(super) fn shapes(run: &Run<'_>) -> Vec<Shape> {
    let Scale { subscribers, crowd, bursts, .. } = run.scale;
    let paced = |name: &str, subscribers, frame_bytes, rate: u32, cpu_goal, last_goal| {
        let time = run.options.seconds.map_or(run.scale.paced, Duration::from_secs);
        Shape {
            name: format!("{name}: {rate}/s to {subscribers}, {frame_bytes} B"),
            subscribers,
            frame_bytes,
            messages: ((time.as_secs_f64() * f64::from(rate)) as u32).max(1),
            interval: Duration::from_secs(1) / rate,
            times: 1,
            cpu_goal,
            last_goal,
        }
    };
    let burst = |subscribers, frame_bytes, messages, cpu_goal| Shape {
        name: format!("burst: {messages} to {subscribers}, {frame_bytes} B"),
        subscribers,
        frame_bytes,
        messages,
        interval: Duration::ZERO,
        times: bursts,
        cpu_goal,
        last_goal: None,
    };
    let asked = run.options;
    if asked.subscribers.or(asked.bytes).is_some() || asked.rate.or(asked.burst).is_some() {
        let (subscribers, bytes) = (asked.subscribers.unwrap_or(subscribers), asked.bytes.unwrap_or(SMALL_FRAME_BYTES));
        return vec![match asked.burst {
            Some(messages) => burst(subscribers, bytes, messages, None),
            None => paced("paced", subscribers, bytes, asked.rate.unwrap_or(50), None, None),
        }];
    }
    let floor_like = Some(Goal::RatioMax(1.5));
    vec![
        paced("isolated", subscribers, SMALL_FRAME_BYTES, 50, Some(1.3), floor_like),
        paced("isolated", subscribers, LARGE_FRAME_BYTES, 50, Some(1.5), floor_like),
        burst(subscribers, SMALL_FRAME_BYTES, 100, Some(0.10)),
        burst(subscribers, LARGE_FRAME_BYTES, 100, Some(0.15)),
        paced("overload", subscribers, SMALL_FRAME_BYTES, 300, Some(0.6), Some(Goal::ValueMax(60.0))),
        burst(crowd, SMALL_FRAME_BYTES, 20, None),
    ]
}

pub(super) fn measure(run: &Run<'_>) -> Result<Vec<Case>> {
    shapes(run).iter().map(|shape| of_shape(run, shape)).collect()
}

fn of_shape(run: &Run<'_>, shape: &Shape) -> Result<Case> {
    let with = |figure: Figure, goal: Option<Goal>| match goal {
        Some(goal) => run.goal(figure, goal),
        None => figure,
    };
    let is_burst = shape.interval.is_zero();
    let last = if is_burst {
        // all messages of a burst are due at its beginning: the slowest one's delay is the burst's length
        Figure::delay("last_max_ms", "whole burst delivered, ms")
    } else {
        Figure::delay("last_p99_ms", "last delivery, p99 ms")
    };
    let mut figures = vec![
        with(Figure::work(CPU, CPU_LABEL), shape.cpu_goal.map(Goal::RatioMax)),
        Figure::work("total_cpu_s_per_million", "the same with the reader's"),
        Figure::median_delay("delivery, p50 ms"),
        Figure::delay("p99_ms", "delivery, p99 ms"),
        with(last, shape.last_goal),
        Figure::new("deliveries_per_s", "deliveries/s"),
        run.goal(Figure::plain("refused", "publishes refused"), Goal::Never),
        nothing_amiss(run),
    ];
    if run.options.transport.is_deflate {
        figures.push(Figure::plain("bytes_per_delivery", "frame, B"));
        figures.push(Figure::plain("deflate_ratio", "frame, over inflated"));
    }
    let server = || {
        let server = run.server()?;
        of_subject(run, shape, server)
    };
    let floor = || of_subject(run, shape, run.floor(Floor::FanOut, shape.subscribers)?);
    run.beside_floor(Scenario::Fanout, shape.name.clone(), figures, server, floor)
}

fn of_subject(run: &Run<'_>, shape: &Shape, mut on: Subject) -> Result<Measure> {
    let memory_before = on.watched.memory()?;
    let everyone = (0..shape.subscribers).map(|_| Subscription::Channel(0));
    let mut client = Client::open(run.clock, &on.site, everyone)?;
    let mut publisher = run.publisher(&mut on)?;
    let readers = shape.subscribers as u64;
    let mut first_message = run.warm_up(&on, &mut client, &mut publisher, shape.frame_bytes, readers)?;
    let mut phases = Phases::new(memory_before);
    for _ in 0..shape.times {
        let plan = Plan::to_one_channel(first_message, shape.messages, shape.interval, shape.frame_bytes);
        first_message += shape.messages;
        phases.add(run.deliver(&on, &mut client, &mut publisher, &plan, readers)?);
    }
    let measure = phases.measure(&on.watched)?;
    close(client, &on)?;
    Ok(measure)
}
