//! The thread that computes: one query at a time, away from the connection.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;

use exeunt_data::Share;
use exeunt_exits::{Heads, Query};
use exeunt_network::Network;
use exeunt_protocol::message::{BlobRef, Contribution, DesiredQuery, DesiredRun, Refusal};
use exeunt_protocol::spec::RunSpec;
use exeunt_stats::{Digest, packed};

use crate::answer::Margins;
use crate::computing::Computing;
use crate::home::Home;
use crate::session::{Model, Session, Watch, Workplace, chain, open_parts};

/// A query to answer. Everything it needs is in the node's cache.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) run: DesiredRun,
    pub(crate) query: DesiredQuery,
    pub(crate) watch: Arc<Watch>,
}

/// An answer: the contribution's header with the packed table, or why there is none.
pub(crate) type Answer = Result<(Contribution, Arc<[u8]>), Refusal>;

/// Where the worker finds things.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) home: Home,
    pub(crate) data: PathBuf,
    pub(crate) share: Option<Share>,
    pub(crate) computing: Computing,
    pub(crate) threads: usize,
}

/// What the worker keeps between queries of one run.
struct Kept {
    spec: Digest,
    session: Session,
    margins: Margins,
    heads: Option<(Digest, Arc<Heads>)>,
    /// Samples that could not be read and were named already.
    bad: usize,
}

impl Bench {
    /// Works until the other end of `jobs` is gone.
    pub(crate) fn work(&self, jobs: &mpsc::Receiver<Job>, mut done: impl FnMut(Job, Answer)) {
        let mut kept = None;
        while let Ok(job) = jobs.recv() {
            let answer = self.answer(&job, &mut kept);
            done(job, answer);
        }
    }

    fn answer(&self, job: &Job, kept: &mut Option<Kept>) -> Answer {
        let failed = |error: &dyn std::error::Error| Refusal::Failed { what: chain(error) };
        if kept.as_ref().is_none_or(|kept| kept.spec != job.run.spec.digest) {
            *kept = None;
            *kept = Some(self.open(&job.run)?);
        }
        let Some(kept) = kept else { return Err(Refusal::Failed { what: "no session".to_owned() }) };
        let body = self.home.blob(job.query.body.digest).map_err(|error| failed(&error))?;
        let query = Query::decode(&body).map_err(|error| failed(&error))?;
        if let Some(heads) = job.query.heads
            && kept.heads.as_ref().is_none_or(|(digest, _)| *digest != heads.digest)
        {
            let bytes = self.home.blob(heads.digest).map_err(|error| failed(&error))?;
            let heads_read = Heads::decode(&bytes).map_err(|error| failed(&error))?;
            kept.heads = Some((heads.digest, Arc::new(heads_read)));
        }
        let heads = kept.heads.as_ref().filter(|_| job.query.heads.is_some()).map(|(_, heads)| heads);
        let bytes: Arc<[u8]> = match (&query, heads) {
            (Query::Timings { .. }, Some(heads)) => self.times(job, kept.session.model(), heads)?.into(),
            _ => {
                let table = kept.session.answer(&query, heads, &mut kept.margins, &job.watch)?;
                packed::encode(table.cells()).into()
            }
        };
        let bad = kept.session.bad_files();
        for name in bad.iter().skip(kept.bad) {
            tracing::warn!("skipped {name}");
        }
        kept.bad = bad.len();
        let dataset = self
            .home
            .dataset_version(&job.run.run, kept.session.edition())
            .map_err(|error| failed(&error))?;
        let contribution = Contribution {
            run: job.run.run.clone(),
            query: job.query.id,
            dataset,
            table: BlobRef::of(&bytes),
        };
        Ok((contribution, bytes))
    }

    /// The packed answer to a query for times: as it was sent the first time, or measured now and kept before anybody
    /// sees it. Measured twice it would be another, and the coordinator would call it a conflict.
    fn times(&self, job: &Job, model: &Model, heads: &Heads) -> Result<Vec<u8>, Refusal> {
        let failed = |error: &dyn std::error::Error| Refusal::Failed { what: chain(error) };
        let (run, query, spec) = (&job.run.run, job.query.id, job.run.spec.digest);
        if let Some(table) = self.home.times(run, query, spec).map_err(|error| failed(&error))? {
            return Ok(table);
        }
        let network = self.home.blob(job.run.network.digest).map_err(|error| failed(&error))?;
        let network = Network::from_bytes_to_run(network).map_err(|error| failed(&error))?;
        let engine = self.computing.engine.engine();
        let table = packed::encode(model.measure(&network, engine, heads, &job.watch)?.table().cells());
        self.home.keep_times(run, query, spec, &table).map_err(|error| failed(&error))?;
        Ok(table)
    }

    fn open(&self, run: &DesiredRun) -> Result<Kept, Refusal> {
        let failed = |error: &dyn std::error::Error| Refusal::Failed { what: chain(error) };
        let spec = self.home.blob(run.spec.digest).map_err(|error| failed(&error))?;
        let spec: RunSpec = serde_json::from_slice(&spec).map_err(|error| failed(&error))?;
        let network = self.home.blob(run.network.digest).map_err(|error| failed(&error))?;
        let mismatch = |error: &dyn std::error::Error| Refusal::ModelMismatch { what: chain(error) };
        let network = Network::from_bytes_to_run(network).map_err(|error| mismatch(&error))?;
        let parts = open_parts(&spec, &Workplace { data: &self.data, share: self.share })?;
        let Computing { engine, batch, .. } = &self.computing;
        let model = Model::load_in_batches(spec, &network, engine.engine(), *batch)?;
        let session = Session::new(Arc::new(model), parts, self.threads);
        Ok(Kept { spec: run.spec.digest, session, margins: Margins::default(), heads: None, bad: 0 })
    }
}
