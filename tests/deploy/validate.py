"""Validates the shipped files with the tools that read them in production; `nox -s deploy` runs it.

Python packages bring hadolint, the schemas of Kubernetes and the rules of Compose files. The other
programs must be installed: nginx and promtool (of Debian's package prometheus), caddy, systemd and
openssl from Debian, helm with `go install helm.sh/helm/v3/cmd/helm@latest`.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import compose_spec
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "helm" / "durable-streams"
KUBERNETES = "1.31"
EVERYTHING = [
    *(
        "--set",
        "store.kind=redis,store.redisUrl=redis://redis:6379,existingSecret=streams,accessSecret=access",
    ),
    *("--set", "metrics.serviceMonitor.enabled=true,metrics.prometheusRule.enabled=true"),
    *("--set", "metrics.dashboard.enabled=true"),
    *("--set", "ingress.enabled=true,ingress.host=streams.example,ingress.tlsSecret=tls"),
]
"""Values of the chart that switch everything on."""


def run(*command: str | Path) -> str:
    print("$", *command, flush=True)
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        print(ended.stdout, ended.stderr)
        sys.exit(f"{command[0]} refuses the file")
    return ended.stdout


def image() -> None:
    run("hadolint", DEPLOY / "Dockerfile")


def compose() -> None:
    # Merged first, because the package does not know YAML's merge keys.
    document = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
    parsed = compose_spec.PyCompose.from_json(json.dumps(document))
    parsed.validate()
    print("compose.yaml has the services", *parsed.service_names())


def proxies(directory: Path) -> None:
    certificate, key = directory / "tls.pem", directory / "tls.key"
    run(
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"),
        *("-subj", "/CN=streams.example", "-keyout", key, "-out", certificate),
    )
    text = (DEPLOY / "nginx" / "streams.conf").read_text()
    for shipped, here in {
        "/etc/ssl/streams.example.pem": certificate,
        "/etc/ssl/streams.example.key": key,
        "/etc/nginx/durable-streams": DEPLOY / "nginx",
        "/var/cache/nginx/streams": directory / "cache",
    }.items():
        text = text.replace(shipped, str(here))
    main = directory / "nginx.conf"
    main.write_text(f"pid {directory}/pid; events {{}}\nhttp {{\n{text}\n}}\n")
    run("nginx", "-e", "stderr", "-t", "-c", main)
    caddyfile = DEPLOY / "caddy" / "Caddyfile"
    run("caddy", "validate", "--config", caddyfile, "--adapter", "caddyfile")
    assert run("caddy", "fmt", caddyfile) == caddyfile.read_text()


def unit(directory: Path) -> None:
    text = (DEPLOY / "systemd" / "durable-streams.service").read_text()
    file = directory / "durable-streams.service"
    # The command is installed elsewhere than on a desk.
    file.write_text(text.replace("/opt/durable-streams/bin/durable-streams-server", "/bin/true"))
    shutil.copy(DEPLOY / "systemd" / "durable-streams.socket", directory)
    run("systemd-analyze", "verify", file)
    print(run("systemd-analyze", "security", "--offline=true", "--threshold=20", file)[-80:])


def chart(directory: Path) -> None:
    helm = ("helm", "--kube-version", KUBERNETES)
    run("helm", "lint", "--strict", "--kube-version", KUBERNETES, CHART)
    for number, values in enumerate(([], EVERYTHING)):
        file = directory / f"rendered-{number}.yaml"
        file.write_text(run(*helm, "template", "chats", CHART, *values))
        run("kubernetes-validate", "--strict", "--kubernetes-version", KUBERNETES, file)
        config = next(each for each in documents(file) if each["kind"] == "ConfigMap")
        assert "config.toml" in config["data"]
    refused = subprocess.run(
        ["helm", "template", "chats", CHART, "--set", "store.knd=redis"],
        capture_output=True,
        check=False,
    )
    assert refused.returncode, "the schema lets a misspelt value through"


def documents(file: Path) -> Iterator[dict[str, object]]:
    yield from yaml.safe_load_all(file.read_text())


def monitoring(directory: Path) -> None:
    print(run("promtool", "check", "rules", DEPLOY / "prometheus" / "alerts.yaml"))
    print(run("promtool", "test", "rules", DEPLOY / "prometheus" / "alerts_test.yaml"))
    dashboard = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    rules = [
        {"record": f"panel:{panel['id']}:{number}", "expr": target["expr"]}
        for panel in dashboard["panels"]
        for number, target in enumerate(panel.get("targets", []))
    ]
    text = json.dumps({"groups": [{"name": "dashboard", "rules": rules}]})
    file = directory / "dashboard.yaml"
    file.write_text(text.replace("$__rate_interval", "5m"))
    print(run("promtool", "check", "rules", file))


def main() -> None:
    programs = ("hadolint", "kubernetes-validate", "helm", "nginx", "caddy", "promtool", "openssl")
    missing = [each for each in (*programs, "systemd-analyze") if shutil.which(each) is None]
    if missing:
        sys.exit(f"Install {', '.join(missing)}: {__doc__}")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        image()
        compose()
        proxies(directory)
        unit(directory)
        chart(directory)
        monitoring(directory)
    print("Every shipped file is valid.")


if __name__ == "__main__":
    main()
