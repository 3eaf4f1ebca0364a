//! Echoes every message, through the same listener, handshake, codec and session code as the product: for suites that
//! examine a WebSocket server from outside, such as Autobahn. Messages may come deflated; replies are plain, as all are.
//!
//! `cargo run --release --example ws_echo -- 127.0.0.1:9001`, then point the suite at `ws://127.0.0.1:9001`.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use hydrant::config;
use hydrant::core::{AppKey, CloseReason, Outcome, Permissions, Settings, UserId};
use hydrant::hooks::Hooks;
use hydrant::hooks::jobs::{JobError, Jobs, Target};
use hydrant::hooks::settings;
use hydrant::limits::Limits;
use hydrant::node::{Node, Parts};
use hydrant::protocol::GUSHER;
use hydrant::shard::door::{Answering, Farewell, FrontDoor, Heard, Session, Step};
use hydrant::shard::http::{Exchange, text};
use hydrant::shard::ws::codec::text_frame;
use hydrant::shard::ws::session::{Welcome, open};

/// Autobahn's largest messages are 16 MiB.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

struct EchoDoor;

impl FrontDoor for EchoDoor {
    fn owns(&self, _path: &str) -> bool {
        true
    }

    fn answer(&self, mut exchange: Exchange) -> Answering<'_> {
        let welcome = Welcome {
            app: AppKey::from("echo"),
            user: UserId::from(""),
            permissions: Permissions::default(),
            dialect: GUSHER,
            session: None,
            must_authorize: false,
        };
        Box::pin(async move {
            let opened = open(&mut exchange, welcome, |_| Box::new(Echo));
            opened.unwrap_or_else(|refusal| text(hyper::StatusCode::BAD_REQUEST, format!("{refusal:?}\n")))
        })
    }
}

struct Echo;

impl Session for Echo {
    fn protocol(&self) -> &'static str {
        "echo"
    }

    fn text(&mut self, heard: Heard<'_>) -> Step {
        Step::Reply(heard.text.to_owned())
    }

    fn binary(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        let mut frame = text_frame(message);
        frame[0] = 0x82; // final, binary
        Some(frame)
    }

    fn done(&mut self, _outcome: Outcome) -> Step {
        Step::Nothing
    }

    fn job_done(&mut self, _result: Result<(), JobError>) -> Option<String> {
        None
    }

    fn farewell(&self, _reason: CloseReason) -> Farewell {
        Farewell { code: 1001, reason: Cow::Borrowed("going away") }
    }
}

fn main() -> anyhow::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    let control = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    control.block_on(async {
        let listener = config::Listener {
            address: config::Address::Tcp(address.parse()?),
            permessage_deflate: true,
            ..config::Listener::blank()
        };
        let limits = Limits {
            command_bytes_max: MESSAGE_BYTES_MAX,
            outbox_bytes_max: MESSAGE_BYTES_MAX,
            outbox_total_bytes_max: 4 * MESSAGE_BYTES_MAX,
            ..Limits::default()
        };
        let node = Node::launch(Parts {
            shards: 1,
            settings: Settings { limits, ..Settings::default() },
            jobs: Jobs::start(Target::None, Duration::from_secs(1), 1, tokio::runtime::Handle::current())?,
            hooks: Hooks::start(tokio::runtime::Handle::current(), &settings::Settings::default()),
            grace: Duration::ZERO,
            trusted_proxies: Vec::new(),
            listeners: vec![(listener, vec![Arc::new(EchoDoor) as Arc<dyn FrontDoor>])],
        })?;
        println!("echoing on ws://{}", node.listeners()[0].address);
        tokio::signal::ctrl_c().await?;
        node.drain().await;
        Ok(())
    })
}
