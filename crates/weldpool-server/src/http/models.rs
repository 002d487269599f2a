//! What is known of the server and its models.

use super::route::ModelPath;
use super::{Router, answer};
use crate::http1::Response;
use crate::{Error, Result, protocol};

impl Router {
    pub(super) fn server_metadata(&self) -> Response {
        answer::json(protocol::server_metadata(&self.service.metadata()))
    }

    pub(super) fn live(&self) -> Response {
        health(self.service.is_live())
    }

    pub(super) fn ready(&self) -> Response {
        health(self.service.is_ready())
    }

    pub(super) fn model_metadata(&self, path: &ModelPath<'_>) -> Result<Response> {
        let metadata = self.service.model_metadata(&path.name, path.version)?;
        Ok(answer::json(protocol::model_metadata(&metadata)))
    }

    pub(super) fn model_ready(&self, path: &ModelPath<'_>) -> Result<Response> {
        if self.service.is_model_ready(&path.name, path.version) {
            Ok(answer::empty())
        } else {
            // Also for a model that is not there, as in Triton.
            Err(Error::invalid_argument("Model version not ready"))
        }
    }

    pub(super) fn model_config(&self, path: &ModelPath<'_>) -> Result<Response> {
        let model = self.service.model(&path.name, path.version)?;
        Ok(answer::json(model.config_json().as_bytes().to_vec()))
    }

    pub(super) fn statistics(&self, path: Option<&ModelPath<'_>>) -> Result<Response> {
        let name = path.map(|path| path.name.as_ref());
        let version = path.and_then(|path| path.version);
        let statistics = self.service.model_statistics(name, version)?;
        Ok(answer::json(protocol::to_json(&statistics)))
    }
}

/// Triton says 400 of a server that is not ready.
fn health(well: bool) -> Response {
    if well {
        answer::empty()
    } else {
        Response::new(400)
    }
}
