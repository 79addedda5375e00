//! Networks: calls of the original as calls of the library.

use serde_json::Value;
use uvm::{Endpoint, NetworkEndpoints, UtilityVm};
use uvm_hcs::document::network::read_endpoint;

use super::calls::{nothing, text};
use super::plug::{outcome, texts};
use super::session::{Outcome, Session};

impl Session {
    /// Makes a call about networks.
    pub(super) async fn call_network(&mut self, vm: &UtilityVm, name: &str, args: &Value) -> Result<Outcome, String> {
        Ok(match name {
            "AddNetNS" => outcome(vm.add_network_namespace(text(args, "id")?).await, nothing),
            "RemoveNetNS" => outcome(vm.remove_network_namespace(text(args, "id")?).await, nothing),
            "AddEndpointsToNS" => outcome(vm.add_endpoints(text(args, "id")?, &endpoints(args)?).await, nothing),
            "RemoveEndpointsFromNS" => {
                let ids: Vec<String> = endpoints(args)?.into_iter().map(|endpoint| endpoint.id).collect();
                outcome(vm.remove_endpoints(text(args, "id")?, &ids).await, nothing)
            }
            "NetworkEndpoints.Release" => {
                let endpoints = NetworkEndpoints::new(text(args, "Namespace")?, texts(&args["EndpointIDs"]));
                outcome(endpoints.release_on(&*self.platform).await, nothing)
            }
            _ => Outcome::NotYet,
        })
    }
}

/// The endpoints of a call, which the original has from the network service.
fn endpoints(args: &Value) -> Result<Vec<Endpoint>, String> {
    let list = args["endpoints"].as_array().map_or(&[][..], Vec::as_slice);
    list.iter().map(|endpoint| read_endpoint(&endpoint.to_string()).map_err(|e| e.to_string())).collect()
}
