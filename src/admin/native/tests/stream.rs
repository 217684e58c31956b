//! Changes as server-sent events.

use super::*;

/// A stream that is read event by event.
struct Events {
    body: Body,
    rest: String,
}

#[derive(Debug)]
struct Event {
    name: String,
    id: Option<String>,
    data: Value,
}

impl Events {
    async fn open(world: &World, who: &str, path: &str, last: Option<&str>) -> Self {
        let mut request = request(who, "GET", path).header("accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = world.send(request, Body::empty()).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[CONTENT_TYPE], "text/event-stream");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        assert_eq!(response.headers()["cache-control"], "no-store");
        Self { body: response.into_body(), rest: String::new() }
    }

    /// The next event; `None` when the stream has ended.
    async fn next(&mut self) -> Option<Event> {
        while !self.rest.contains("\n\n") {
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("an event");
            let bytes = frame?.expect("readable").into_data().expect("data");
            self.rest.push_str(std::str::from_utf8(&bytes).expect("text"));
        }
        let (event, rest) = self.rest.split_once("\n\n").expect("it is there");
        let field =
            |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        let found = Event {
            name: field("event: ").expect("a name"),
            id: field("id: "),
            data: serde_json::from_str(&field("data: ").expect("data")).expect("JSON"),
        };
        self.rest = rest.to_owned();
        Some(found)
    }

    /// The next event that is no heartbeat.
    async fn change(&mut self) -> Event {
        loop {
            let event = self.next().await.expect("it goes on");
            if event.name != "heartbeat" {
                return event;
            }
        }
    }

    /// Reads until the stream has ended.
    async fn end(mut self) {
        let ending = async { while self.next().await.is_some() {} };
        tokio::time::timeout(PATIENCE, ending).await.expect("it ends");
    }
}

#[tokio::test]
async fn a_stream_tells_changes_as_they_are_made() {
    let world = World::new().await;
    world.create().await;
    let mut events = Events::open(&world, "replica", "/v1/changes", None).await;
    let begin = events.next().await.expect("a beginning");
    assert_eq!((&*begin.name, &begin.data["revision"]), ("heartbeat", &json!(3)));
    let id = world.create().await;
    let made = events.change().await;
    assert_eq!((&*made.name, &made.data["credential_id"]), ("credential", &json!(id)));
    assert!(made.data["digest"].is_string());
    world.ask("operator", "DELETE", &format!("{CREDENTIALS}/{id}"), Value::Null).await.expect(200);
    assert_eq!(events.change().await.name, "deleted");
    world.ask("operator", "PUT", "/v1/tenants/z-9", Value::Null).await.expect(201);
    world.ask("operator", "DELETE", "/v1/tenants/z-9", Value::Null).await.expect(200);
    let (declared, gone) = (events.change().await, events.change().await);
    assert_eq!((&*declared.name, &*gone.name), ("tenant", "tenant"));
    assert_eq!(gone.data["type"], "tenant_deleted");
    let beat = events.next().await.expect("a heartbeat");
    let position = format!(
        "{}:{}:{}",
        beat.data["history"].as_str().expect("text"),
        beat.data["revision"],
        beat.data["mark"].as_str().expect("text")
    );
    assert_eq!((&*beat.name, beat.id), ("heartbeat", Some(position)));
    let seen =
        Events::open(&world, "reader", "/v1/changes", begin.id.as_deref()).await.change().await;
    assert!(seen.data.get("digest").is_none());
}

#[tokio::test]
async fn a_batch_has_one_id_at_its_end_from_which_to_resume() {
    let world = World::with_limit(700).await;
    let mut events = Events::open(&world, "replica", "/v1/changes", None).await;
    let begin = events.next().await.expect("a beginning").id.expect("a position");
    drop(events);
    for _ in 0..600 {
        world.create().await;
    }
    // The header goes before the parameter, which a reconnecting client keeps as it was.
    let path = "/v1/changes?rows=1000&after=x:1:0000000000000000";
    let mut events = Events::open(&world, "replica", path, Some(&begin)).await;
    let mut seen = 0;
    let mut ids = Vec::new();
    while seen < 600 {
        let event = events.change().await;
        seen += 1;
        if let Some(id) = event.id {
            ids.push((seen, id));
        }
    }
    assert_eq!(ids.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [600]);
    let path = format!("/v1/changes?rows=250&after={begin}");
    let mut events = Events::open(&world, "replica", &path, None).await;
    let mut first = events.change().await;
    while first.id.is_none() {
        first = events.change().await;
    }
    let resumed = first.id.expect("the end of a batch");
    drop(events);
    let next = Events::open(&world, "replica", "/v1/changes", Some(&resumed)).await.change().await;
    let revision = |event: &Value| event["revision"].as_u64().expect("a number");
    assert_eq!(revision(&next.data), revision(&first.data) + 1, "no gap and nothing twice");
}

#[tokio::test]
async fn a_filtered_stream_tells_how_far_nothing_was_left_out() {
    let world = World::new().await;
    let mut filtered = Events::open(&world, "replica", "/v1/changes?tenant=z-1", None).await;
    let mut bound = Events::open(&world, "replica-1", "/v1/changes", None).await;
    for events in [&mut filtered, &mut bound] {
        assert_eq!(events.next().await.expect("a beginning").data["revision"], 2);
    }
    let other = world.ask("operator", "POST", "/v1/tenants/z-2/credentials", Value::Null).await;
    let revision = other.expect(201).revision();
    for events in [&mut filtered, &mut bound] {
        loop {
            let beat = events.next().await.expect("it goes on");
            assert_eq!(beat.name, "heartbeat");
            if beat.data["revision"] == revision {
                break;
            }
        }
    }
    world.create().await;
    for events in [&mut filtered, &mut bound] {
        assert_eq!(events.change().await.data["tenant"], "z-1");
    }
}

#[tokio::test]
async fn a_stream_cannot_begin_where_the_store_has_not_been() {
    let world = World::new().await;
    let ask = async |path: &str, last: &str| {
        let request = request("replica", "GET", path)
            .header("accept", "text/event-stream")
            .header("last-event-id", last);
        Answer::of(world.send(request, Body::empty()).await).await
    };
    let other = "0123456789abcdef:1:0123456789abcdef";
    ask("/v1/changes", other).await.refused(410, "history_unknown");
    let bad = ask("/v1/changes", "7").await.refused(400, "invalid");
    assert_eq!(bad.body["field"], "Last-Event-ID");
}

#[tokio::test]
async fn a_stream_ends_with_its_token_its_history_and_when_we_leave() {
    let world = World::new().await;
    let mut kept = Events::open(&world, "reader", "/v1/changes", None).await;
    let removed = Events::open(&world, "replica", "/v1/changes", None).await;
    world.admit(&[("reader", Role::Reader), ("operator", Role::Operator)]);
    removed.end().await;
    kept.next().await.expect("a beginning");
    kept.next().await.expect("it goes on");

    world.ask("operator", "POST", "/v1/history/accept", Value::Null).await.expect(200);
    kept.end().await;
    let left = Events::open(&world, "reader", "/v1/changes", None).await;
    world.stop.cancel();
    left.end().await;
}

#[tokio::test]
async fn a_stream_ends_when_its_token_does() {
    let world = World::new().await;
    world.admit_until(&[("replica", Role::Replica)], Some(START.plus(HOUR)));
    let mut events = Events::open(&world, "replica", "/v1/changes", None).await;
    events.next().await.expect("a beginning");
    events.next().await.expect("it goes on");
    world.clock.advance(HOUR);
    events.end().await;
}
