//! One version of a model that is loaded and can run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weldpool_engine::{Model, Tensor};

use super::histogram::Histogram;
use super::scheduler::{Done, Run, Scheduler};
use super::statistics::{FailureReason, ModelStatistics, Phases};
use super::types::{InferRequest, InferResponse, ModelMetadata, OutputTensor, TensorMeta};
use crate::config::{Backend, Served, TensorConfig, json};
use crate::error::{Error, ErrorKind, Result};

/// A loaded version, shared by everybody who uses it. It is unloaded when the last of them is done.
pub type ModelHandle = Arc<LoadedModel>;

/// One version of a model that is loaded and can run.
#[derive(Debug)]
pub struct LoadedModel {
    version: u64,
    version_text: String,
    served: Served,
    config_json: String,
    labels: BTreeMap<String, Vec<String>>,
    inputs: Vec<Arc<str>>,
    outputs: Vec<Arc<str>>,
    scheduler: Scheduler,
    statistics: Arc<ModelStatistics>,
    http_overhead: Arc<Histogram>,
}

impl LoadedModel {
    /// Makes the instances that the configuration asks for and starts their threads.
    pub(crate) fn start(
        version: u64,
        served: Served,
        labels: BTreeMap<String, Vec<String>>,
        model: &dyn Model,
        statistics: Arc<ModelStatistics>,
        queue_length_max: usize,
    ) -> Result<Self> {
        let instances = (0..served.instance_count())
            .map(|_| model.instance())
            .collect::<weldpool_engine::Result<Vec<_>>>()?;
        let names = |tensors: &[TensorConfig]| {
            tensors
                .iter()
                .map(|tensor| Arc::from(tensor.name.as_str()))
                .collect()
        };
        Ok(Self {
            version,
            version_text: version.to_string(),
            config_json: json::to_text(served.config()),
            inputs: names(served.inputs()),
            outputs: names(served.outputs()),
            labels,
            scheduler: Scheduler::start(served.name(), instances, queue_length_max)?,
            served,
            statistics,
            http_overhead: Arc::default(),
        })
    }

    /// The model's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.served.name()
    }

    /// The version, as the protocol writes it.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version_text
    }

    /// The version as a number.
    #[must_use]
    pub fn version_number(&self) -> u64 {
        self.version
    }

    /// What requests must look like.
    #[must_use]
    pub fn signature(&self) -> &Served {
        &self.served
    }

    /// The names of the classes of an output, if its configuration gives a label file.
    #[must_use]
    pub fn labels(&self, output: &str) -> &[String] {
        self.labels.get(output).map_or(&[], Vec::as_slice)
    }

    /// The configuration, completed and with all defaults, as JSON in Triton's order.
    #[must_use]
    pub fn config_json(&self) -> &str {
        &self.config_json
    }

    /// The model's statistics.
    #[must_use]
    pub fn statistics(&self) -> &ModelStatistics {
        &self.statistics
    }

    /// What the model tells about itself; `versions` are those that can be asked for.
    #[must_use]
    pub fn metadata(&self, versions: Vec<String>) -> ModelMetadata {
        let platform = &self.served.config().platform;
        let tensors = |tensors: &[TensorConfig]| {
            tensors
                .iter()
                .map(|tensor| TensorMeta {
                    name: tensor.name.clone(),
                    datatype: tensor.data_type,
                    shape: tensor.shape.clone(),
                })
                .collect()
        };
        ModelMetadata {
            name: self.name().to_owned(),
            versions,
            platform: if platform.is_empty() {
                self.served.backend().name().to_owned()
            } else {
                platform.clone()
            },
            inputs: tensors(self.served.inputs()),
            outputs: tensors(self.served.outputs()),
        }
    }

    /// The server's own share of the latency of this version's requests over HTTP.
    #[must_use]
    pub fn http_overhead(&self) -> &Arc<Histogram> {
        &self.http_overhead
    }

    /// The backend its configuration names.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.served.backend()
    }

    /// Ends the threads of the instances and waits for them, so that their memory is free afterwards.
    /// Blocks while a run is under way.
    pub(crate) fn stop(self) {
        self.scheduler.stop();
    }

    /// Runs a request whose tensors were checked against [`signature`](Self::signature), within
    /// `time_max`.
    pub(crate) async fn infer(
        &self,
        request: InferRequest,
        time_max: Duration,
    ) -> Result<InferResponse> {
        let _pending = self.statistics.begin();
        let mut outcome = Outcome {
            model: self,
            arrival: request.arrival,
            told: false,
        };
        let result = match tokio::time::timeout(time_max, self.run(request)).await {
            Ok(result) => result,
            Err(_) => Err(Error::unavailable(format!(
                "model '{}' did not answer within {time_max:?}",
                self.name()
            ))),
        };
        match result {
            Ok((response, batch, phases)) => {
                outcome.told = true;
                self.statistics.succeeded(batch, &phases);
                Ok(response)
            }
            Err(error) => {
                outcome.fail(match error.kind() {
                    ErrorKind::Unavailable => FailureReason::Rejected,
                    ErrorKind::Internal => FailureReason::Backend,
                    _ => FailureReason::Other,
                });
                Err(error)
            }
        }
    }

    async fn run(&self, request: InferRequest) -> Result<(InferResponse, u64, Phases)> {
        let start = Instant::now();
        let batch = match request.inputs.first() {
            Some(input) if self.served.max_batch_size() > 0 => {
                input.tensor.shape().first().map_or(1, |&size| size as u64)
            }
            _ => 1,
        };
        let inputs = request
            .inputs
            .into_iter()
            .map(|input| self.input(&input.name, input.tensor))
            .collect::<Result<Vec<_>>>()?;
        let wanted: Vec<&TensorConfig> = if request.outputs.is_empty() {
            self.served.outputs().iter().collect()
        } else {
            let outputs = request.outputs.iter();
            outputs
                .map(|output| Ok(self.served.check_output(&output.name)?))
                .collect::<Result<_>>()?
        };
        let outputs = wanted
            .iter()
            .map(|output| self.output_name(&output.name))
            .collect();
        let deadline = request
            .timeout
            .and_then(|timeout| start.checked_add(timeout));
        let prepared = Instant::now();
        let Done {
            outputs,
            queue,
            compute,
        } = self
            .scheduler
            .run(Run {
                inputs,
                outputs,
                deadline,
            })
            .await?;
        let ran = Instant::now();
        let outputs = wanted
            .into_iter()
            .zip(outputs)
            .map(|(config, tensor)| self.output(config, tensor))
            .collect::<Result<Vec<_>>>()?;
        let end = Instant::now();
        let phases = Phases {
            total: end - request.arrival,
            queue,
            compute_input: prepared - start,
            compute_infer: compute,
            compute_output: end - ran,
        };
        let response = InferResponse {
            model_name: self.name().to_owned(),
            model_version: self.version_text.clone(),
            id: request.id,
            parameters: BTreeMap::new(),
            outputs,
            compute_time: compute,
        };
        Ok((response, batch, phases))
    }

    fn input(&self, name: &str, tensor: Tensor) -> Result<(Arc<str>, Tensor)> {
        let position = self
            .served
            .inputs()
            .iter()
            .position(|input| input.name == name);
        let position = position.ok_or_else(|| {
            Error::invalid_argument(format!(
                "unexpected inference input '{name}' for model '{}'",
                self.name()
            ))
        })?;
        let shape = self.served.inputs()[position].model_shape(tensor.shape());
        let tensor = if shape == tensor.shape() {
            tensor
        } else {
            tensor.reshaped(shape)?
        };
        Ok((Arc::clone(&self.inputs[position]), tensor))
    }

    fn output_name(&self, name: &str) -> Arc<str> {
        let known = self.outputs.iter().find(|output| &***output == name);
        known.map_or_else(|| Arc::from(name), Arc::clone)
    }

    fn output(&self, config: &TensorConfig, tensor: Tensor) -> Result<OutputTensor> {
        let shape = config.request_shape(tensor.shape());
        let tensor = if shape == tensor.shape() {
            tensor
        } else {
            tensor.reshaped(shape)?
        };
        Ok(OutputTensor {
            name: config.name.clone(),
            tensor,
        })
    }
}

/// Counts a request exactly once, also when its future is dropped because the client went away.
struct Outcome<'a> {
    model: &'a LoadedModel,
    arrival: Instant,
    told: bool,
}

impl Outcome<'_> {
    fn fail(&mut self, reason: FailureReason) {
        self.told = true;
        self.model.statistics.failed(reason, self.arrival.elapsed());
    }
}

impl Drop for Outcome<'_> {
    fn drop(&mut self) {
        if !self.told {
            self.fail(FailureReason::Cancelled);
        }
    }
}
