//! The model repository: what is in it, and loading and unloading.

use super::{Router, answer};
use crate::http1::Response;
use crate::protocol::Body;
use crate::{Error, Result, protocol};

impl Router {
    pub(super) async fn index(&self, body: &mut impl Body) -> Result<Response> {
        let body = body.read_to_end(self.limits.json_bytes_max).await?;
        let ready_only = protocol::read_index(&body, &self.limits)?;
        Ok(answer::json(protocol::index(
            &self.service.repository_index(ready_only).await,
        )))
    }

    pub(super) async fn load(&self, name: &str, body: &mut impl Body) -> Result<Response> {
        let body = body.read_to_end(self.limits.json_bytes_max).await?;
        let request = protocol::read_load(&body, &self.limits)?;
        drop(body);
        self.service.load(name, request).await?;
        Ok(answer::empty())
    }

    pub(super) async fn unload(&self, name: &str, body: &mut impl Body) -> Result<Response> {
        let body = body.read_to_end(self.limits.json_bytes_max).await?;
        let unload_dependents = protocol::read_unload(&body, &self.limits)?;
        self.service.unload(name, unload_dependents).await?;
        Ok(answer::empty())
    }
}

/// Says that repositories have no names here, as in Triton.
pub(super) fn named_repository() -> Error {
    Error::unsupported("'repository_name' specification is not supported")
}
