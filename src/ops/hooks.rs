//! `/hooks` on the ops listener: what hooks have come to, and the deliveries that were given up.

use std::collections::HashSet;

use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use crate::hooks::{Chosen, EndpointReport, Hooks, ParkedReport};
use crate::shard::http::{self, Exchange, Response};

/// Parked deliveries in one answer, unless `limit` says otherwise.
const LIMIT_DEFAULT: usize = 100;

/// Answers one of hooks' paths, in JSON: `GET /hooks`, `GET /hooks/parked?limit=N`, `POST /hooks/replay` and
/// `POST /hooks/discard`, these with the body `{"ids":["…"]}` or `{"all":true}`. The method is known to be right.
pub async fn answer(mut exchange: Exchange) -> Response {
    let body = match exchange.body().await {
        Ok(body) => body,
        Err(error) => return error.response(),
    };
    let hooks = &exchange.shard.shared().hooks;
    let answer = match &*exchange.path {
        "/hooks" => Ok(json(&Endpoints { endpoints: hooks.report(), overflows: hooks.overflows() })),
        "/hooks/parked" => limit(exchange.query()).map(|limit| parked(hooks, limit)),
        "/hooks/replay" => chosen(&body).map(|chosen| json(&Replayed { replayed: hooks.replay(&chosen) })),
        _ => chosen(&body).map(|chosen| json(&Discarded { discarded: hooks.discard(&chosen) })),
    };
    answer.unwrap_or_else(|words| http::text(StatusCode::BAD_REQUEST, format!("{words}\n")))
}

#[derive(Serialize)]
struct Endpoints {
    endpoints: Vec<EndpointReport>,
    overflows: u64,
}

#[derive(Serialize)]
struct Parked {
    parked: Vec<ParkedReport>,
    count: usize,
}

#[derive(Serialize)]
struct Replayed {
    replayed: usize,
}

#[derive(Serialize)]
struct Discarded {
    discarded: usize,
}

fn parked(hooks: &Hooks, limit: usize) -> Response {
    let (parked, count) = hooks.parked(limit);
    json(&Parked { parked, count })
}

fn limit(query: &str) -> Result<usize, String> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("limit="));
    value.map_or(Ok(LIMIT_DEFAULT), |value| value.parse().map_err(|_| "limit: a number is expected".to_owned()))
}

fn chosen(body: &[u8]) -> Result<Chosen, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        #[serde(default)]
        all: bool,
        ids: Option<HashSet<String>>,
    }
    let expected = r#"the body has to be {"ids":["…"]} or {"all":true}"#;
    let body: Body = serde_json::from_slice(body).map_err(|error| format!("{expected}: {error}"))?;
    match (body.all, body.ids) {
        (true, None) => Ok(Chosen::All),
        (false, Some(ids)) => Ok(Chosen::Ids(ids)),
        _ => Err(expected.to_owned()),
    }
}

fn json(value: &impl Serialize) -> Response {
    let text = serde_json::to_string(value).expect("names, numbers and texts are JSON");
    http::response(StatusCode::OK, "application/json", text + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_and_queries() {
        let ids = |ids: &[&str]| Ok(Chosen::Ids(ids.iter().map(|id| (*id).to_owned()).collect()));
        assert_eq!(chosen(br#"{"all":true}"#), Ok(Chosen::All));
        assert_eq!(chosen(br#"{"ids":["1-2","3-4"]}"#), ids(&["1-2", "3-4"]));
        assert_eq!(chosen(br#"{"ids":[]}"#), ids(&[]));
        for wrong in ["", "{}", "[]", r#"{"all":false}"#, r#"{"all":true,"ids":[]}"#, r#"{"ids":[1]}"#, r#"{"id":"1"}"#]
        {
            let words = chosen(wrong.as_bytes()).unwrap_err();
            assert!(words.starts_with("the body has to be "), "{words}");
        }
        assert_eq!(limit(""), Ok(100));
        assert_eq!(limit("a=1&limit=0"), Ok(0));
        assert!(limit("limit=-1").is_err());
    }
}
