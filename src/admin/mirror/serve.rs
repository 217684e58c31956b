//! What the admin API does with a mirrored tenant. The order is what matters: rights go first here,
//! and come first there.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::rules::{Listing, block, enable, enrolled};
use super::{Mirror, Trouble};
use crate::admin::Problem;
use crate::admin::rules::{self, Overlap};
use crate::credential::token::hint;
use crate::credential::{Credential, CredentialId, Status, TokenDigest};
use crate::source::cloud::{CloudError, CloudSecret, Created, Listed};
use crate::store::{AuditEntry, Denied, Edit, Origin, Record, Standing, View, WriteError, Written};

/// What a new credential is to have beside what its cloud gives it.
pub struct Wish {
    pub lifetime: Duration,
    pub label: String,
    pub by: String,
}

impl Mirror {
    /// Makes one in the cloud; its digest is durable before anybody is shown the secret.
    pub async fn create(
        self: &Arc<Self>,
        wish: &Wish,
        audit: AuditEntry,
    ) -> Result<(Record, CloudSecret), Problem> {
        let _turn = self.turn.lock().await;
        let (record, secret) = self.make(wish).await?;
        let new = record.clone();
        let decide = move |view: &View| Ok([rules::declare(view)?, vec![Edit::Put(new)]].concat());
        let audit = AuditEntry { credential_id: Some(record.credential.id.clone()), ..audit };
        let written = self.keep(&record, audit, decide).await?;
        Ok((Record { revision: written.head.position.revision, ..record }, secret))
    }

    /// Makes one in the place of another, whose token goes on for a while.
    pub async fn rotate(
        self: &Arc<Self>,
        id: &CredentialId,
        overlap: Overlap,
        wish: &Wish,
        audit: AuditEntry,
    ) -> Result<(Record, CloudSecret), Problem> {
        let _turn = self.turn.lock().await;
        let now = self.clock.now().wall;
        let records = self.all().await?;
        let of = |id: &CredentialId| records.iter().find(|it| it.credential.id == *id);
        let old = of(id).ok_or_else(|| Problem::CredentialUnknown(id.clone()))?;
        if let Some(successor) = old.successor.as_ref().filter(|it| of(it).is_some()) {
            return Err(Problem::Rotated(successor.clone()));
        }
        if matches!(old.origin, Origin::Mirrored(_, Standing::NotEnrolled)) {
            let what =
                "is of a credential whose token nobody has told us: enroll it first".to_owned();
            return Err(Problem::Invalid { field: "id", what });
        }
        // What an earlier rotation left makes room, as it does among our own.
        for record in rules::left_over(&records, id, now) {
            self.remove(&record.credential.id, audit.clone()).await?;
        }
        if overlap == Overlap::Leaked {
            // It ends here at once, whatever becomes of the new one.
            self.remove(id, audit.clone()).await?;
        }
        let (record, secret) = self.make(wish).await?;
        let (new, old) = (record.clone(), id.clone());
        let decide = move |view: &View| {
            let mut edits = vec![Edit::Put(new.clone())];
            if let (Overlap::For(overlap), Some(old)) = (overlap, view.record(&old)) {
                edits.push(Edit::Put(rules::replaced(old, now.plus(overlap), &new.credential.id)));
            }
            Ok(edits)
        };
        let detail = format!("replaced by {}", record.credential.id);
        let written = self.keep(&record, AuditEntry { detail, ..audit }, decide).await?;
        Ok((Record { revision: written.head.position.revision, ..record }, secret))
    }

    /// Refuses it here, and then has it deleted there.
    async fn remove(self: &Arc<Self>, id: &CredentialId, audit: AuditEntry) -> Result<(), Problem> {
        self.block(id, Standing::DeletePending, audit).await?;
        match self.cloud.delete(id).await {
            Ok(()) | Err(CloudError::Missing) => {
                let confirmed = self.confirm(id, Standing::DeletePending).await;
                confirmed.map_err(|trouble| self.trouble(&trouble))
            }
            Err(error) => Err(self.unavailable(&error)),
        }
    }

    /// The new credential as its cloud has made it.
    async fn make(self: &Arc<Self>, wish: &Wish) -> Result<(Record, CloudSecret), Problem> {
        let before = self.all().await?.into_iter().map(|it| it.credential.id).collect();
        let made = self.cloud.create(wish.lifetime).await;
        let Created { listed, secret } = match made {
            Ok(created) => created,
            Err(CloudError::Uncertain(what)) => return Err(self.uncertain(what, &before).await),
            Err(CloudError::LimitReached(_)) => {
                let records = self.all().await?;
                return Err(Problem::LimitReached(records));
            }
            Err(error) => return Err(self.unavailable(&error)),
        };
        if before.contains(&listed.id) {
            let what = format!("{}: a new credential has the id of an old one", self.cloud.name());
            return Err(self.uncertain(what, &before).await);
        }
        self.known().hold(&listed.id);
        let origin = Origin::Mirrored(self.provider(), Standing::Awaited);
        let record = Record {
            label: wish.label.clone(),
            hint: Some(hint(secret.reveal())),
            created_by: wish.by.clone(),
            enrolled: false,
            ..self.record_of(&listed, secret.digest(), origin)
        };
        Ok((record, secret))
    }

    /// Writes a new credential. If that fails nobody will ever have its token, so it is taken back.
    async fn keep(
        &self,
        record: &Record,
        audit: AuditEntry,
        decide: impl FnOnce(&View) -> Result<Vec<Edit>, Denied> + Send + 'static,
    ) -> Result<Written, Problem> {
        let new = record.clone();
        let decide = move |view: &View| {
            rules::free(view, &new)?;
            decide(view)
        };
        let digest = Some(record.credential.digest);
        let written = self.write(audit, digest, false, Box::new(decide)).await;
        if written.is_err()
            && let Err(error) = self.cloud.delete(&record.credential.id).await
        {
            let (tenant, id) = (self.tenant(), &record.credential.id);
            tracing::error!(%tenant, credential_id = %id, "a new credential that could not be kept is still in the cloud: {error}");
        }
        written.map_err(|error| self.denied(error))
    }

    /// Refuses its token from here on, durably, and has the cloud told.
    pub async fn disable(&self, id: &CredentialId, audit: AuditEntry) -> Result<(), Problem> {
        self.restrict(id, Standing::DisablePending, audit).await
    }

    /// Refuses its token from here on, and has the cloud delete it.
    pub async fn delete(&self, id: &CredentialId, audit: AuditEntry) -> Result<(), Problem> {
        self.restrict(id, Standing::DeletePending, audit).await
    }

    async fn restrict(
        &self,
        id: &CredentialId,
        pending: Standing,
        audit: AuditEntry,
    ) -> Result<(), Problem> {
        let is_known = self.store_record(id).await?.is_some();
        // Where there is a token to refuse, that waits for no cloud.
        let _turn = if is_known { None } else { Some(self.turn.lock().await) };
        // Somebody may have told it meanwhile.
        if is_known || self.store_record(id).await?.is_some() {
            self.block(id, pending, audit).await?;
            self.news.notify_one();
            return Ok(());
        }
        // Nobody has told us its token, so there is nothing to refuse here.
        let told = match pending {
            Standing::DeletePending => self.cloud.delete(id).await,
            _ => self.cloud.set_status(id, Status::Disabled).await,
        };
        match told {
            Ok(()) => {
                let status = (pending == Standing::DisablePending).then_some(Status::Disabled);
                self.known().changed(id, status);
                Ok(self.store.append_audit(audit).await?)
            }
            Err(error) => Err(self.problem(&error, id)),
        }
    }

    async fn block(
        &self,
        id: &CredentialId,
        pending: Standing,
        audit: AuditEntry,
    ) -> Result<(), Problem> {
        let named = id.clone();
        let decide = Box::new(move |view: &View| Ok(block(view, &named, pending)));
        self.write(audit, None, true, decide).await.map_err(|error| self.denied(error))?;
        Ok(())
    }

    /// Asks the cloud first, and lets the token in once that has said yes.
    pub async fn enable(&self, id: &CredentialId, audit: AuditEntry) -> Result<(), Problem> {
        let _turn = self.turn.lock().await;
        let record = self.store_record(id).await?;
        let is_going =
            |it: &Record| matches!(it.origin, Origin::Mirrored(_, Standing::DeletePending));
        if record.as_ref().is_some_and(is_going) {
            return Err(Problem::CredentialUnknown(id.clone()));
        }
        let seen = record.map(|record| record.revision);
        if let Err(error) = self.cloud.set_status(id, Status::Enabled).await {
            return Err(self.problem(&error, id));
        }
        self.known().changed(id, Some(Status::Enabled));
        let Some(seen) = seen else { return Ok(self.store.append_audit(audit).await?) };
        let named = id.clone();
        let decide = Box::new(move |view: &View| Ok(enable(view, &named, seen)));
        self.write(audit, None, false, decide).await.map_err(|error| self.denied(error))?;
        Ok(())
    }

    /// Learns the token of a credential that the cloud lists.
    pub async fn enroll(
        self: &Arc<Self>,
        id: &CredentialId,
        digest: TokenDigest,
        hint: Option<String>,
        by: String,
        audit: AuditEntry,
    ) -> Result<(), Problem> {
        // Who gives rights asks the cloud first: what was listed a while ago may be over.
        let _turn = self.turn.lock().await;
        self.poll(&[]).await.map_err(|trouble| self.trouble(&trouble))?;
        let listed = self.listing().and_then(|listing| listing.get(id).cloned());
        let Some(listed) = listed else { return Err(Problem::CredentialUnknown(id.clone())) };
        let origin = Origin::Mirrored(self.provider(), Standing::Listed);
        let record = self.record_of(&listed, digest, origin);
        let record = Record { hint, created_by: by, ..record };
        let decide = Box::new(move |view: &View| {
            rules::free(view, &record)?;
            let known = view.record(&record.credential.id);
            Ok(vec![Edit::Put(match known {
                // Its status may have been changed here meanwhile.
                Some(known) => Record {
                    credential: Credential { digest, ..known.credential.clone() },
                    hint: record.hint,
                    ..known.clone()
                },
                None => record,
            })])
        });
        let written = self.write(audit, Some(digest), false, decide).await;
        written.map(drop).map_err(|error| self.denied(error))
    }

    /// All credentials of the tenant, those whose token nobody has told us too.
    pub async fn all(&self) -> Result<Vec<Record>, Problem> {
        let mut records = self.records().await.map_err(|trouble| self.trouble(&trouble))?;
        if let Some(listing) = self.listing() {
            let known = |id: &CredentialId| records.iter().any(|it| it.credential.id == *id);
            let others: Vec<_> = listing.values().filter(|it| !known(&it.id)).collect();
            let others: Vec<_> = others.into_iter().map(|it| self.not_enrolled(it)).collect();
            records.extend(others);
        }
        records.sort_by(|one, other| one.credential.id.cmp(&other.credential.id));
        Ok(records)
    }

    pub async fn record(&self, id: &CredentialId) -> Result<Option<Record>, Problem> {
        if let Some(record) = self.store_record(id).await? {
            return Ok(Some(record));
        }
        let listing = self.listing();
        Ok(listing.and_then(|listing| listing.get(id).map(|it| self.not_enrolled(it))))
    }

    async fn store_record(&self, id: &CredentialId) -> Result<Option<Record>, Problem> {
        Ok(self.store.record(&(self.tenant().clone(), id.clone())).await?)
    }

    fn listing(&self) -> Option<Arc<Listing>> {
        self.known().listing.clone()
    }

    fn not_enrolled(&self, listed: &Listed) -> Record {
        // It is in no store, and so it leads to nothing.
        let digest = TokenDigest::of(listed.id.as_str().as_bytes());
        let origin = Origin::Mirrored(self.provider(), Standing::NotEnrolled);
        Record { enrolled: false, ..self.record_of(listed, digest, origin) }
    }

    fn record_of(&self, listed: &Listed, digest: TokenDigest, origin: Origin) -> Record {
        let credential = Credential {
            id: listed.id.clone(),
            tenant: self.tenant().clone(),
            digest,
            status: listed.status,
            expiry: listed.expiry,
        };
        let now = self.clock.now().wall;
        enrolled(credential, origin, listed.created.unwrap_or(now))
    }

    /// Those that may be the one whose creation nobody has answered: they were not there before.
    async fn uncertain(
        self: &Arc<Self>,
        mut what: String,
        before: &HashSet<CredentialId>,
    ) -> Problem {
        if let Err(trouble) = self.poll(&[]).await {
            what += &format!("; what there is now is not known: {trouble}");
        }
        let mut candidates = self.all().await.unwrap_or_default();
        candidates.retain(|it| {
            matches!(it.origin, Origin::Mirrored(_, Standing::NotEnrolled))
                && !before.contains(&it.credential.id)
        });
        Problem::CloudUncertain { what, candidates }
    }

    fn problem(&self, error: &CloudError, id: &CredentialId) -> Problem {
        match error {
            CloudError::Missing => Problem::CredentialUnknown(id.clone()),
            error => self.unavailable(error),
        }
    }

    fn unavailable(&self, error: &CloudError) -> Problem {
        let retry_after = match error {
            CloudError::Throttled { retry_after } => *retry_after,
            _ => None,
        };
        let what = format!("{}: {error}", self.cloud.name());
        Problem::CloudUnavailable { what, retry_after }
    }

    fn trouble(&self, trouble: &Trouble) -> Problem {
        match trouble {
            Trouble::Cloud(error) => self.unavailable(error),
            Trouble::Store(what) => Problem::StoreFailed(what.clone()),
        }
    }

    fn denied(&self, error: WriteError) -> Problem {
        Problem::of(error, self.tenant(), None)
    }
}
