//! A cloud as the source of a proxy by itself: mirrored into a store that lives as long as the process,
//! which is followed like any other.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Failure;
use crate::admin::mirror::{Enrolments, Mirror};
use crate::clock::Clock;
use crate::config::{self, Config, Source};
use crate::source::Feed;
use crate::source::alibaba::Alibaba;
use crate::source::cloud::Cloud;
use crate::source::embedded::Embedded;
use crate::source::tencent::Tencent;
use crate::store::Store;
use crate::store::memory::Memory;
use crate::store::replicas::Replicas;
use crate::telemetry::metrics::Metrics;

/// At work.
pub struct CloudSource {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl CloudSource {
    /// Starts to mirror, if the source is a cloud; what is to be followed then.
    pub async fn start(
        config: &Config,
        clock: &Clock,
        metrics: &Arc<Metrics>,
    ) -> Result<Option<(Self, Arc<dyn Feed>)>, Failure> {
        let credentials = &config.credentials;
        let source = credentials.source;
        let (tencent, alibaba) = match source {
            Source::Tencent => (credentials.tencent.as_ref(), None),
            Source::Alibaba => (None, credentials.alibaba.as_ref()),
            Source::Embedded | Source::Native | Source::File => return Ok(None),
        };
        let failed = |what| Failure(format!("credentials.{}: {what}", source.as_str()));
        let cloud = cloud(tencent, alibaba, clock, metrics).map_err(failed)?;
        let now = clock.now();
        let store: Arc<dyn Store> = Arc::new(Memory::new(now.wall));
        let longest = credentials.max_stale.reads.0.max(credentials.max_stale.writes.0);
        let replicas = Replicas::load(Arc::clone(&store), longest, now).await;
        let replicas = Arc::new(replicas.map_err(|error| failed(error.to_string()))?);
        let enrolment = tencent.and_then(|it| it.enrolment.as_ref());
        let enrolment = enrolment.or(alibaba.and_then(|it| it.enrolment.as_ref()));
        let enrolment = enrolment.expect("a checked config has it");
        let enrolments = Enrolments::new(enrolment, cloud.tenant());
        let mirror = Mirror::load(
            cloud,
            credentials.refresh.0,
            Arc::clone(&store),
            Arc::clone(&replicas),
            clock.clone(),
            Arc::clone(metrics),
        );
        let mirror = mirror.await.map_err(|error| failed(error.to_string()))?;
        // Between two reads lies `refresh`, after which an unknown token is judged anyway.
        replicas.lags.declare(mirror.tenant(), Duration::ZERO, None);
        let stop = CancellationToken::new();
        let task = tokio::spawn(mirror.run(Some(enrolments), stop.clone()));
        let feed = Embedded::of_cloud(source.as_str(), store, replicas, clock.clone());
        Ok(Some((Self { stop, task }, Arc::new(feed))))
    }

    pub async fn stop(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

/// The client of one or the other cloud.
pub fn cloud(
    tencent: Option<&config::Tencent>,
    alibaba: Option<&config::Alibaba>,
    clock: &Clock,
    metrics: &Arc<Metrics>,
) -> Result<Arc<dyn Cloud>, String> {
    let (clock, metrics) = (clock.clone(), Arc::clone(metrics));
    match (tencent, alibaba) {
        (Some(config), _) => Ok(Arc::new(Tencent::new(config, clock, metrics)?)),
        (None, Some(config)) => Ok(Arc::new(Alibaba::new(config, clock, metrics)?)),
        (None, None) => unreachable!("a checked config has one"),
    }
}
