//! What each CNI command does.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use oxilium_api::{
    Attach, AttachmentKey, Check, Client, ClientError, CollectGarbage, Detach, ErrorCode, Pod,
    Ready,
};
use serde_json::json;

use crate::config::{NetConf, VERSIONS, version_of};
use crate::environment::Environment;
use crate::error::{CniError, Code};
use crate::result::{Previous, pass_on};
use crate::{log, tombstone, veth};

/// How long the agent may take for an answer that needs no waiting.
const PROMPT: Duration = Duration::from_secs(10);
/// How much longer than it was told to wait the agent may take to say that it was in vain.
const GRACE: Duration = Duration::from_secs(5);

/// Runs a call and gives what belongs on stdout.
pub(crate) fn run(environment: &Environment, input: &[u8]) -> Result<String, CniError> {
    if environment.command == "VERSION" {
        return Ok(format!(
            "{:#}",
            json!({"cniVersion": version_of(input), "supportedVersions": VERSIONS})
        ));
    }
    let started = Instant::now();
    let conf = NetConf::parse(input)?;
    let outcome = dispatch(environment, &conf);
    let logged = outcome.as_ref().map(|_| ());
    log::call(&conf, environment, started.elapsed(), logged);
    outcome
}

fn dispatch(environment: &Environment, conf: &NetConf) -> Result<String, CniError> {
    match environment.command.as_str() {
        "ADD" => add(environment, conf),
        "DEL" => del(environment, conf),
        "CHECK" => since(conf, 0, 4).and_then(|()| check(environment, conf)),
        "GC" => since(conf, 1, 1).and_then(|()| collect_garbage(conf)),
        "STATUS" => since(conf, 1, 1).and_then(|()| status(conf)),
        other => Err(CniError::new(
            Code::InvalidEnvironment,
            format!("CNI_COMMAND is {other:?}"),
            "allowed: ADD, DEL, CHECK, GC, STATUS, VERSION",
        )),
    }
}

/// The configuration's version must have the command.
fn since(conf: &NetConf, major: u32, minor: u32) -> Result<(), CniError> {
    if conf.at_least(major, minor) {
        return Ok(());
    }
    Err(CniError::new(
        Code::IncompatibleVersion,
        format!(
            "cniVersion {} of the configuration does not have this command",
            conf.version
        ),
        format!("it came with {major}.{minor}.0"),
    ))
}

fn prompt(conf: &NetConf) -> Client {
    Client::new(&conf.socket, PROMPT)
}

/// What ADD would answer, and whether all that it needs to be told is there.
pub(crate) fn understand(environment: &Environment, input: &[u8]) -> Result<String, CniError> {
    let conf = NetConf::parse(input)?;
    Ok(Addition::understand(environment, &conf)?.result)
}

/// An ADD as far as it can be understood without a look at the node.
struct Addition<'a> {
    key: AttachmentKey,
    netns: &'a str,
    pod: Pod,
    addresses: Vec<IpAddr>,
    ipv6_prefix_length: Option<u8>,
    result: String,
}

impl<'a> Addition<'a> {
    fn understand(environment: &'a Environment, conf: &NetConf) -> Result<Self, CniError> {
        let key = environment.key()?;
        let netns = environment.netns()?;
        let pod = environment.pod()?;
        let raw = conf.previous()?;
        let previous = Previous::parse(raw)?;
        Ok(Self {
            addresses: previous.addresses(&key.interface)?,
            ipv6_prefix_length: previous.ipv6_prefix_length(&key.interface),
            result: pass_on(conf, raw, &previous)?,
            key,
            netns,
            pod,
        })
    }
}

fn add(environment: &Environment, conf: &NetConf) -> Result<String, CniError> {
    let Addition {
        key,
        netns,
        pod,
        addresses,
        ipv6_prefix_length,
        result,
    } = Addition::understand(environment, conf)?;
    let mut veth = veth::find(netns, &key.interface)?;
    // An address that duplicate address detection still tries is in the result already.
    for address in addresses {
        if !veth.container.addresses.contains(&address) {
            veth.container.addresses.push(address);
        }
    }
    veth.container.ipv6_prefix_length = ipv6_prefix_length;
    let attach = Attach {
        key,
        netns: netns.to_owned(),
        pod,
        host: veth.host,
        container: veth.container,
        wait_millis: u64::try_from(conf.wait().as_millis()).unwrap_or(u64::MAX),
    };
    Client::new(&conf.socket, conf.wait() + GRACE)
        .call(attach)
        .map_err(|error| CniError::from_client(&error))?;
    Ok(result)
}

/// Never fails for what is gone, and never for an agent that is down: then a file tells it later.
fn del(environment: &Environment, conf: &NetConf) -> Result<String, CniError> {
    let key = environment.key()?;
    let client = prompt(conf);
    let told = client.call(Detach { key: key.clone() });
    let Err(error) = told else {
        return Ok(String::new());
    };
    if matches!(&error, ClientError::Agent(error) if error.code == ErrorCode::NotFound) {
        return Ok(String::new());
    }
    tombstone::write(&conf.tombstones, &key).map_err(|write| {
        CniError::new(
            Code::TryAgainLater,
            format!(
                "{error}; and cannot leave word in {}: {write}",
                conf.tombstones.display()
            ),
            "the pod's endpoint goes when the agent hears of it: start the agent, or make the directory writable",
        )
    })?;
    // An agent that came up in between has read the directory already.
    if client.call(Detach { key: key.clone() }).is_ok() {
        tombstone::remove(&conf.tombstones, &key)
            .map_err(|error| CniError::io("cannot remove the tombstone", &error))?;
    }
    Ok(String::new())
}

fn check(environment: &Environment, conf: &NetConf) -> Result<String, CniError> {
    let key = environment.key()?;
    let netns = environment.netns()?;
    Previous::parse(conf.previous()?)?;
    let veth = veth::find(netns, &key.interface)?;
    prompt(conf)
        .call(Check {
            key,
            host_ifindex: veth.host.ifindex,
        })
        .map_err(|error| match &error {
            ClientError::Agent(inner) if inner.code == ErrorCode::NotFound => {
                CniError::new(Code::UnknownContainer, error.to_string(), "")
            }
            _ => CniError::from_client(&error),
        })?;
    Ok(String::new())
}

fn collect_garbage(conf: &NetConf) -> Result<String, CniError> {
    let valid = conf.valid.clone().ok_or_else(|| {
        CniError::new(
            Code::InvalidConfig,
            "GC without cni.dev/valid-attachments",
            "the runtime must list the attachments that are still wanted; none is an empty list",
        )
    })?;
    prompt(conf)
        .call(CollectGarbage { valid })
        .map_err(|error| CniError::from_client(&error))?;
    Ok(String::new())
}

fn status(conf: &NetConf) -> Result<String, CniError> {
    prompt(conf).call(Ready).map_err(|error| {
        CniError::new(
            Code::NotAvailable,
            format!("pods cannot be added now: {error}"),
            "pods that run keep their policy",
        )
    })?;
    Ok(String::new())
}
