//! The commands at a cloud that the proxies ask themselves. A new token's digest is recorded in the
//! enrolment file before the token is shown: one that nobody has recorded opens nothing.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use super::enroll::{Enrolled, read_token};
use super::{About, Act, Which, told};
use crate::cli::argument::Expires;
use crate::cli::cloud::{CloudAccount, CloudCredential};
use crate::cli::output::Output;
use crate::cli::receipt::Wait;
use crate::clock::Clock;
use crate::config::value::Span;
use crate::credential::token::hint;
use crate::credential::{
    BearerToken, Credential, CredentialId, Expiry, Status, TenantId, TokenDigest,
};
use crate::source::cloud::{CloudError, Listed};
use crate::source::file::{self, Row};

pub struct Desk {
    pub cloud: CloudAccount,
    pub output: Output,
}

impl Desk {
    pub async fn run(&self, act: Act) -> Result<ExitCode, String> {
        match act {
            Act::Create { tenant, about, discard, wait } => {
                self.fits(tenant.as_ref())?;
                self.create(about, discard.as_ref(), &wait).await
            }
            Act::List { tenant, expiring } => {
                self.fits(tenant.as_ref())?;
                self.list(expiring).await
            }
            Act::Show { which } => self.show(&which).await,
            Act::Enable { which, wait } => self.set_status(&which, Status::Enabled, &wait).await,
            Act::Disable { which, wait } => self.set_status(&which, Status::Disabled, &wait).await,
            Act::Delete { which, wait } => self.delete(&which, &wait).await,
            Act::Enroll { whose, wait } => {
                self.fits(whose.tenant.as_ref())?;
                self.enroll(whose, &wait).await
            }
            Act::Rotate { .. } => Err(self.needs_admin(
                "rotate",
                "by hand: create a second one, give its token to the identity provider, delete the \
                 first",
            )),
            Act::Import { .. } => Err(self.needs_admin(
                "import",
                "by hand: `credential enroll --id ID --digest …` for each that the cloud lists",
            )),
        }
    }

    async fn create(
        &self,
        about: About,
        discard: Option<&CredentialId>,
        wait: &Wait,
    ) -> Result<ExitCode, String> {
        let CloudAccount { cloud, enrolment, .. } = &self.cloud;
        let lifetime = self.lifetime(about.expires)?;
        let futile = |what| format!("{what}\nnothing was made: its digest could not be recorded");
        enrolment.probe().map_err(futile)?;
        if let Some(id) = discard {
            self.discard(id).await?;
        }
        let created = match cloud.create(lifetime).await {
            Ok(created) => created,
            Err(error) => return Err(self.not_created(&error).await),
        };
        let (listed, secret) = (created.listed, created.secret);
        let about = file::About {
            create_time: listed.created,
            label: about.label,
            hint: Some(hint(secret.reveal())),
        };
        let made = self.enrolled(listed, secret.digest(), about);
        if let Err(what) = self.record(&made) {
            return Err(self.undo(&made.id, &what).await);
        }
        let mut body = self.cloud.json(&made);
        body["secret"] = secret.reveal().into();
        told::written(&self.output, &body)?;
        self.tell_read(wait);
        Ok(ExitCode::SUCCESS)
    }

    /// How long a new one is to live.
    fn lifetime(&self, expires: Option<Expires>) -> Result<Duration, String> {
        let fixed = self.cloud.cloud.lifetime();
        match (expires, fixed) {
            (None, _) => Ok(fixed.unwrap_or(YEAR)),
            (Some(Expires::In(time)), Some(fixed)) if time.0 == fixed => Ok(fixed),
            (Some(_), Some(fixed)) => Err(format!(
                "{} gives every credential {}, whatever is asked: leave --expires out",
                self.cloud.cloud.name(),
                Span(fixed)
            )),
            (Some(Expires::In(time)), None) => Ok(time.0),
            (Some(Expires::At(end)), None) => {
                let left = end.since(Clock::system().now().wall);
                match left.as_secs() {
                    0 => Err("--expires is past: nothing was made".to_owned()),
                    _ => Ok(left),
                }
            }
        }
    }

    /// Deletes a credential whose token nobody has. One that has gone is no hindrance.
    async fn discard(&self, id: &CredentialId) -> Result<(), String> {
        let tenant = self.cloud.cloud.tenant();
        if self.cloud.enrolment.rows()?.iter().any(|row| row.is_of(tenant, id)) {
            return Err(told::not_discarded(id));
        }
        match self.cloud.cloud.delete(id).await {
            Ok(()) => anstream::eprintln!("{id} is deleted"),
            Err(CloudError::Missing) => anstream::eprintln!("{id} was gone already"),
            Err(error) => {
                let what = self.cloud.told(&error);
                return Err(format!("{id} is not discarded, and nothing was made: {what}"));
            }
        }
        Ok(())
    }

    /// Why nothing was made, or may have been, and how to go on.
    async fn not_created(&self, error: &CloudError) -> String {
        let advise = match error {
            CloudError::Uncertain(_) => discard_one,
            CloudError::LimitReached(_) => free_a_place,
            _ => return self.cloud.told(error),
        };
        let what = self.cloud.what(error);
        match self.cloud.credentials().await {
            Ok(held) => what + &advise(&held),
            Err(unknown) => format!("{what}\nwhat is there now is not known: {unknown}"),
        }
    }

    /// Takes back what could not be recorded.
    async fn undo(&self, id: &CredentialId, what: &str) -> String {
        match self.cloud.cloud.delete(id).await {
            Ok(()) | Err(CloudError::Missing) => format!(
                "{what}\nits digest could not be recorded, so {id}, which was just made, is deleted again"
            ),
            Err(error) => format!(
                "{what}\nits digest could not be recorded, and {id}, which was just made, may still \
                 be there: {}\nits token is lost: once the file can be changed, put a new one in its place \
                 with\n  scim-guard credential create --discard {id}",
                self.cloud.told(&error)
            ),
        }
    }

    async fn list(&self, expiring: Option<Span>) -> Result<ExitCode, String> {
        let held = self.cloud.credentials().await?;
        let mut rows: Vec<_> = held.iter().map(|it| self.cloud.json(it)).collect();
        if let Some(time) = expiring {
            let by = Clock::system().now().wall.plus(time.0);
            // One that the cloud has deleted is past caring for.
            rows.retain(|row| {
                row["cloud"] != "unlisted" && told::end(row).is_some_and(|end| end <= by)
            });
        }
        Ok(told::list(&self.output, rows, expiring))
    }

    async fn show(&self, which: &Which) -> Result<ExitCode, String> {
        self.fits(which.tenant.as_ref())?;
        let held = self.cloud.credentials().await?;
        match held.iter().find(|it| it.id == which.id) {
            Some(it) => told::one(&self.output, &self.cloud.json(it)),
            None => return Err(self.missing(&which.id, &held)),
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn set_status(
        &self,
        which: &Which,
        status: Status,
        wait: &Wait,
    ) -> Result<ExitCode, String> {
        self.fits(which.tenant.as_ref())?;
        let CloudAccount { cloud, enrolment, .. } = &self.cloud;
        match cloud.set_status(&which.id, status).await {
            Ok(()) => {}
            Err(CloudError::Missing) => return Err(self.missing_now(&which.id).await),
            Err(error) => return Err(self.cloud.told(&error)),
        }
        self.tell_changed(&which.id, status.as_str())?;
        // The listing decides; the file only tells the same to whoever reads it.
        match enrolment.set_status(cloud.tenant(), &which.id, status) {
            Ok(true) => {}
            Ok(false) if status == Status::Enabled => anstream::eprintln!(
                "its token is not enrolled, so it opens nothing here: `scim-guard credential enroll \
                 --id {}`",
                which.id
            ),
            Ok(false) => {}
            Err(what) => anstream::eprintln!("{what}: it still tells the old status"),
        }
        self.tell_asked(wait);
        Ok(ExitCode::SUCCESS)
    }

    async fn delete(&self, which: &Which, wait: &Wait) -> Result<ExitCode, String> {
        self.fits(which.tenant.as_ref())?;
        let (id, cloud) = (&which.id, &self.cloud.cloud);
        let was_there = match cloud.delete(id).await {
            Ok(()) => true,
            Err(CloudError::Missing) => false,
            Err(error) => return Err(self.cloud.told(&error)),
        };
        let removed = self.cloud.enrolment.remove(cloud.tenant(), id);
        if !was_there && matches!(removed, Ok(false)) {
            return Err(self.missing_now(id).await);
        }
        self.tell_changed(id, "Deleted")?;
        if !was_there {
            anstream::eprintln!("{} had deleted it before", cloud.name());
        }
        removed.map_err(|what| {
            format!("{what}\n{id} is deleted; its row stays in the file, and opens nothing")
        })?;
        self.tell_asked(wait);
        Ok(ExitCode::SUCCESS)
    }

    async fn enroll(&self, whose: Enrolled, wait: &Wait) -> Result<ExitCode, String> {
        let Enrolled { id, digest, label, .. } = whose;
        let Some(id) = id else {
            let held = self.cloud.credentials().await?;
            return Err(format!(
                "say by --id which credential the token is of; when it ends, {} knows{}",
                self.cloud.cloud.name(),
                also(&held)
            ));
        };
        let (digest, hint) = match digest {
            Some(digest) => (digest, None),
            None => {
                let token = read_token()?;
                let parsed = BearerToken::parse(token.as_bytes()).expect("it was read as one");
                if parsed.is_weak() {
                    return Err(WEAK.to_owned());
                }
                (parsed.digest(), Some(hint(&token)))
            }
        };
        let held = self.cloud.credentials().await?;
        let found = held.iter().find(|it| it.id == id);
        let Some(listed) = found.and_then(|it| it.listed.clone()) else {
            return Err(self.missing(&id, &held));
        };
        let known = found.and_then(|it| it.enrolled.as_ref());
        let label = label.or_else(|| known.and_then(|row| row.about().label));
        let about = file::About { create_time: listed.created, label, hint };
        let credential = self.enrolled(listed, digest, about);
        let replaced = self.record(&credential)?;
        told::written(&self.output, &self.cloud.json(&credential))?;
        if replaced.is_some_and(|old| old != digest) {
            anstream::eprintln!("another token was enrolled for it, which opens nothing any more");
        }
        self.tell_read(wait);
        Ok(ExitCode::SUCCESS)
    }

    fn enrolled(&self, listed: Listed, digest: TokenDigest, about: file::About) -> CloudCredential {
        let Listed { id, status, expiry, .. } = listed.clone();
        let tenant = self.cloud.cloud.tenant().clone();
        let row = Row::new(&Credential { id, tenant, digest, status, expiry }, about);
        CloudCredential { id: listed.id.clone(), listed: Some(listed), enrolled: Some(row) }
    }

    /// Tells which token the credential had before.
    fn record(&self, credential: &CloudCredential) -> Result<Option<TokenDigest>, String> {
        let row = credential.enrolled.as_ref().expect("it was just made so");
        self.cloud.enrolment.put(row)
    }

    fn tell_changed(&self, id: &CredentialId, status: &str) -> Result<(), String> {
        let tenant = self.cloud.cloud.tenant().as_str();
        let body = json!({ "credential_id": id.as_str(), "tenant": tenant, "status": status });
        told::written(&self.output, &body)
    }

    /// When the proxies know of a change at the cloud.
    fn tell_asked(&self, wait: &Wait) {
        let CloudAccount { cloud, refresh, .. } = &self.cloud;
        tell_no_receipt(wait, &format!("when they ask {} next, every {refresh}", cloud.name()));
    }

    /// When the proxies know of a change of the file.
    fn tell_read(&self, wait: &Wait) {
        let file = self.cloud.enrolment.path().display();
        tell_no_receipt(wait, &format!("within seconds, where they have {file}"));
    }

    /// Fails for a tenant that the config does not follow.
    fn fits(&self, tenant: Option<&TenantId>) -> Result<(), String> {
        let own = self.cloud.cloud.tenant();
        match tenant.filter(|tenant| *tenant != own) {
            Some(tenant) => Err(format!(
                "the config follows {own} of {}, and not {tenant}: leave --tenant out, or name \
                 another config",
                self.cloud.cloud.name()
            )),
            None => Ok(()),
        }
    }

    fn missing(&self, id: &CredentialId, held: &[CloudCredential]) -> String {
        let (name, tenant) = (self.cloud.cloud.name(), self.cloud.cloud.tenant());
        format!("{name} {tenant}: lists no credential {id}{}", also(held))
    }

    async fn missing_now(&self, id: &CredentialId) -> String {
        self.missing(id, &self.cloud.credentials().await.unwrap_or_default())
    }

    fn needs_admin(&self, act: &str, by_hand: &str) -> String {
        let name = self.cloud.cloud.name();
        format!(
            "{act} needs an admin API that mirrors {name}, and here the proxies ask {name} themselves\n\
             {by_hand}"
        )
    }
}

/// Which of the credentials may be the one that a create without an answer has made.
fn discard_one(held: &[CloudCredential]) -> String {
    let mut lost = listed(held);
    lost.retain(|it| it.enrolled.is_none());
    lost.sort_by_key(|it| it.listed.as_ref().and_then(|listed| listed.created));
    if lost.is_empty() {
        return "\nall that is listed is enrolled, so nothing was made that shows: list again in a minute \
                before you try again"
            .to_owned();
    }
    format!(
        "\nlisted and not enrolled, oldest first{}\nif one of them was made just now, and not by somebody \
         else, its token is lost: put a new one in its place with{}",
        lines(&lost),
        commands("create --discard", &lost)
    )
}

fn free_a_place(held: &[CloudCredential]) -> String {
    let held = listed(held);
    format!("\nit has{}\nfree a place with one of{}", lines(&held), commands("delete", &held))
}

fn listed(held: &[CloudCredential]) -> Vec<&CloudCredential> {
    held.iter().filter(|it| it.listed.is_some()).collect()
}

fn commands(act: &str, credentials: &[&CloudCredential]) -> String {
    let line = |it: &&CloudCredential| format!("\n  scim-guard credential {act} {}", it.id);
    credentials.iter().map(line).collect()
}

fn tell_no_receipt(wait: &Wait, when: &str) {
    let waiting = match wait.time() {
        Some(_) => "--wait has no meaning here, for nobody reports: ",
        None => "",
    };
    anstream::eprintln!("{waiting}proxies see it {when}");
}

/// What there is instead.
fn also(held: &[CloudCredential]) -> String {
    let listed = listed(held);
    if listed.is_empty() { String::new() } else { format!("; it lists{}", lines(&listed)) }
}

fn lines(credentials: &[&CloudCredential]) -> String {
    let line = |it: &&CloudCredential| {
        let listed = it.listed.as_ref()?;
        let made = listed.created.map(|time| format!(", made {time}")).unwrap_or_default();
        let ends = match listed.expiry {
            Expiry::At(end) => format!(", ends {end}"),
            Expiry::Never => String::new(),
        };
        let enrolled = if it.enrolled.is_some() { "enrolled" } else { "not enrolled" };
        Some(format!("\n  {}  {}{made}{ends}, {enrolled}", it.id, listed.status.as_str()))
    };
    credentials.iter().filter_map(line).collect()
}

const WEAK: &str = "the token is too easy to guess: it has less than 20 characters, or less than 8 \
                    different ones; if the cloud has made it so, enrol its digest with --digest";
/// As the embedded admin API counts it.
const YEAR: Duration = Duration::from_secs(365 * 86_400);
