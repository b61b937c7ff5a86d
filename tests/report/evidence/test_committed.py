"""The committed claims and tables of the registered studies are those of the committed list."""

from pathlib import Path

import pytest

from workbench.report.evidence.lines import evidence_file, pilot_file, read_lines
from workbench.report.evidence.pilot import measured_pilot, pilot_keys, pilot_lines
from workbench.report.evidence.show import evidence_of, write_evidence
from workbench.settings.registration import read_registration

RESULTS = Path(__file__).resolve().parents[3] / "results"


def test_committed_claims_and_tables_follow_from_the_list(tmp_path):
    """Figures and HTML are left out: their bytes depend on the versions of their libraries."""
    registration, lines = read_registration(), read_lines(evidence_file(RESULTS))
    if registration is None or not lines:
        pytest.skip(f"no registered training is listed yet: {evidence_file(RESULTS)}")
    for scale in registration.studies:
        evidence = evidence_of(scale, registration, lines, RESULTS)
        if evidence.lines:
            write_evidence(evidence, tmp_path)
        committed = {file.name for form in ("csv", "md") for file in (RESULTS / "reference").glob(f"{scale}_*.{form}")}
        shown = {file.name for form in ("csv", "md") for file in tmp_path.glob(f"{scale}_*.{form}")}
        assert committed == shown, "run workbench evidence show"
        for name in sorted(shown):
            text = (RESULTS / "reference" / name).read_text(encoding="utf-8")
            assert text == (tmp_path / name).read_text(encoding="utf-8"), f"{name}: run workbench evidence show"


def test_registered_pilots_follow_from_their_list():
    registration = read_registration()
    studies = {scale: study for scale, study in (registration.studies if registration else {}).items() if study.pilot}
    if not studies:
        pytest.skip("no pilot is registered")
    lines = read_lines(pilot_file(RESULTS))
    for scale, study in studies.items():
        assert measured_pilot(pilot_lines(pilot_file(RESULTS), scale)) == study.pilot
        assert pilot_keys(study.pilot, study.rows, scale) <= lines.keys()
