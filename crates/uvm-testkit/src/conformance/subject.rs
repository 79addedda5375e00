//! The VM that a case is about.

use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};

use uvm::{ErrorKind, Output, ProcessSpec, Refusal, ResourceError, UtilityVm, UvmError};
use uvm_platform::{Capabilities, Feature, PlatformError};

use super::{Created, Host, Things, Wanted, Ways};
use crate::TestResult;

/// A VM, what its host can do, and what was refused because the host cannot.
pub struct Subject {
    created: Created,
    capabilities: Capabilities,
    ways: Ways,
    refused: AtomicUsize,
}

impl Deref for Subject {
    type Target = UtilityVm;

    fn deref(&self) -> &UtilityVm {
        &self.created.vm
    }
}

impl Subject {
    /// A VM that is powered off.
    pub(super) async fn create(host: &dyn Host, wanted: Wanted) -> TestResult<Self> {
        let created = host.create(wanted).await?;
        let (capabilities, ways) = (host.capabilities().await?, host.ways());
        Ok(Self { created, capabilities, ways, refused: AtomicUsize::new(0) })
    }

    /// A VM that runs.
    pub(super) async fn boot(host: &dyn Host, wanted: Wanted) -> TestResult<Self> {
        let subject = Self::create(host, wanted).await?;
        subject.start().await?;
        Ok(subject)
    }

    /// Closes the VM and passes if nothing of it is left. Gives how often something was refused.
    pub(super) async fn close(self) -> TestResult<usize> {
        (*self).close().await?;
        self.gone().await
    }

    /// Drops the VM, and passes once nothing of it is left.
    pub(super) async fn gone(self) -> TestResult<usize> {
        let Created { vm, gone, .. } = self.created;
        drop(vm);
        gone().await?;
        Ok(self.refused.into_inner())
    }

    pub(super) fn things(&self) -> &Things {
        &self.created.things
    }

    pub(super) fn ways(&self) -> Ways {
        self.ways
    }

    /// What was done, where the host can do it. Elsewhere it must have been refused by the error that says so: `None`.
    pub(super) fn if_it_can<T>(&self, feature: Feature, done: Result<T, UvmError>) -> TestResult<Option<T>> {
        if self.capabilities.has(feature) {
            return Ok(Some(done?));
        }
        let Err(error) = done else { return Err(format!("{feature} was done, which the host says it cannot").into()) };
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
        let Some(PlatformError::Unsupported { feature: named, platform, why }) = cause(&error) else {
            return Err(format!("no error of a host that cannot do it: {error:?}").into());
        };
        assert_eq!((*named, *platform), (feature, self.capabilities.platform), "{error:?}");
        assert!(!why.is_empty(), "{error:?}");
        self.refused.fetch_add(1, Ordering::Relaxed);
        Ok(None)
    }

    /// Runs a program of the guest to its end.
    pub(super) async fn output(&self, command: &[&str]) -> TestResult<Output> {
        Ok(self.create_process(&ProcessSpec::new(command.iter().copied())).await?.output().await?)
    }
}

/// What the host said.
pub(super) fn cause(error: &UvmError) -> Option<&PlatformError> {
    match error {
        UvmError::Operation { source, .. } | UvmError::Create { source, .. } | UvmError::Host(source) => Some(source),
        UvmError::Resource { source, .. } => match &**source {
            ResourceError::Host(source) => Some(source),
            _ => None,
        },
        _ => None,
    }
}

/// Why a thing could not be plugged in or unplugged.
///
/// # Panics
/// That is not what failed.
pub(super) fn resource(error: &UvmError) -> &ResourceError {
    match error {
        UvmError::Resource { source, .. } => source,
        other => panic!("no error of a thing: {other:?}"),
    }
}

/// The error of something that must fail.
pub(super) fn failure<T>(what: &str, result: Result<T, UvmError>) -> TestResult<UvmError> {
    result.err().ok_or_else(|| format!("it should have failed: {what}").into())
}

/// Passes if it was refused for this reason.
pub(super) fn refused<T>(what: &str, result: Result<T, UvmError>, why: Refusal) -> TestResult {
    match failure(what, result)? {
        UvmError::Refused { why: said, .. } if said == why => Ok(()),
        other => Err(format!("{what}: {why:?} was expected, not {other:?}").into()),
    }
}

/// Passes if there is no such thing any more.
pub(super) fn not_attached<T>(what: &str, result: Result<T, UvmError>) -> TestResult {
    let error = failure(what, result)?;
    assert!(matches!(resource(&error), ResourceError::NotAttached), "{what}: {error:?}");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{what}");
    Ok(())
}
