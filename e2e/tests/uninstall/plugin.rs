//! What `oxilium cni install` puts on a host goes, too, and what it replaced comes back.

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use oxilium_e2e::{
    agent::{Agent, Cli},
    lab::Lab,
    process::built_binary,
    require::require,
    scenario::NEEDS,
};

use crate::{agent, attach, fingerprint, plain_pod, uninstall};

const FLANNEL: &str =
    r#"{"cniVersion": "0.3.1", "name": "cbr0", "plugins": [{"type": "flannel"}]}"#;
const OF_CILIUM: &str =
    r#"{"cniVersion": "0.3.1", "name": "old", "plugins": [{"type": "cilium-cni"}]}"#;

/// A host's directories of CNI, filled by others.
pub(crate) struct Cni {
    programs: PathBuf,
    configurations: PathBuf,
}

impl Cni {
    /// With Cilium's plugin and configuration, if `after_cilium`.
    pub(crate) fn new(lab: &Lab, after_cilium: bool) -> Self {
        let [programs, configurations] =
            ["opt-cni-bin", "etc-cni"].map(|name| lab.directory().join(name));
        for directory in [&programs, &configurations] {
            fs::create_dir(directory).unwrap();
        }
        fs::write(configurations.join("10-flannel.conflist"), FLANNEL).unwrap();
        if after_cilium {
            fs::write(configurations.join("05-cilium.conflist"), OF_CILIUM).unwrap();
            fs::write(programs.join("cilium-cni"), "Cilium's").unwrap();
        }
        Self {
            programs,
            configurations,
        }
    }

    fn run(&self, lab: &Lab, args: &[&str]) -> Output {
        let mut command = Cli::new(lab).unwrap().command(args);
        command.arg("--bin-dir").arg(&self.programs);
        command.arg("--conf-dir").arg(&self.configurations);
        lab.worker.netns.output(&mut command).unwrap()
    }

    /// As its last word tells people to do once there are no pods.
    pub(crate) fn remove_programs(&self, lab: &Lab) {
        let output = self.run(lab, &["cni", "uninstall", "--programs"]);
        assert!(output.status.success(), "{output:?}");
    }

    pub(crate) fn install(&self, lab: &Lab) {
        let plugin = built_binary("oxilium-cni").unwrap();
        let output = self.run(
            lab,
            &["cni", "install", "--plugin", plugin.to_str().unwrap()],
        );
        assert!(output.status.success(), "{output:?}");
        let ours = fs::read_to_string(self.configurations.join("05-cilium.conflist")).unwrap();
        assert!(
            ours.contains("cbr0") && ours.contains("cilium-cni"),
            "{ours}"
        );
        assert!(!self.configurations.join("10-flannel.conflist").exists());
    }
}

#[test]
fn the_plugin_and_its_configuration_go_and_what_they_replaced_comes_back() {
    if !require(&NEEDS) {
        return;
    }
    for after_cilium in [false, true] {
        let lab = Lab::new().unwrap();
        let pod = plain_pod(&lab);
        let cni = Cni::new(&lab, after_cilium);
        agent(&lab, "auto");
        fingerprint(&lab);
        let before = fingerprint(&lab);

        cni.install(&lab);
        let mut running = Agent::start(&lab).unwrap();
        running.process().crash().unwrap();
        let output = uninstall(&lab);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(fingerprint(&lab), before);

        // A pod that is there is deleted with the plugin: its program stays, and that is told.
        cni.install(&lab);
        let mut running = Agent::start(&lab).unwrap();
        attach(&lab, &pod);
        running.process().crash().unwrap();
        let output = uninstall(&lab);
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(
            told.contains("1 pods are deleted with it, first default/one"),
            "{told}"
        );
        assert!(cni.programs.join("oxilium-cni").exists());
        cni.remove_programs(&lab);
        assert_eq!(fingerprint(&lab), before);
    }
}
