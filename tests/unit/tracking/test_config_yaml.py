"""What config.yaml keeps of a config: everything but secrets."""

from pathlib import Path

from gan_dist import config as config_module

KEYS = {
    "data": {"shards": "https://me:pw@host/{0..9}.tar?signature=abc", "resolution": 8, "channels": 1},
    "training": {"images": 100, "batch": 10, "micro_batch": 10},
}


def test_config_yaml_holds_no_signature_and_no_password_and_is_the_same_run(tmp_path: Path) -> None:
    config = config_module.validate(KEYS, "x")
    (tmp_path / "config.yaml").write_text(config_module.to_yaml(config, {}))
    text = (tmp_path / "config.yaml").read_text()
    assert "abc" not in text
    assert "pw" not in text
    again, _ = config_module.read_run(tmp_path)
    assert again.fingerprint() == config.fingerprint()
    assert config_module.differences(again, config) == []
