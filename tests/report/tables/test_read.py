"""CSV files of a wrong form are one line that names the file and what to do."""

import os

import pytest

from workbench.report.tables.read import read_log, read_ranking_file, read_table_file
from workbench.support.errors import WorkbenchError

FORMLESS = {
    "empty": b"",
    "letters": b"letters\n",
    "other columns": b"a,b\n1,2\n",
    "bytes": bytes(range(256)),
    "UTF-16": "row,AP,run\nx,1,y\n".encode("utf-16"),
    "zeros": b"\x00" * 100,
    "JSON": b'{"row": {"AP": [1, 2]}}\n',
}
TABLES = {
    "long line": b"row,AP,run\na,1,b,2\n",
    "short line": b"row,AP,run\na,1\n",
    "open quotation": b'row,AP,run\n"a,1,b\n',
    "no run": b"row,AP\na,1\n",
    "empty cell": b"row,AP,run\na,,b\n",
}
LOGS = {
    "letters in a column": b"step,epoch,loss\n1,1,x\n",
    "letters in a term": b"step,epoch,loss,loss_cls\n1,1,2,x\n",
    "long line": b"step,epoch,loss\n1,1,2\n2,1,2,3\n",
    "step without a number": b"step,epoch,loss\n,1,2\n",
    "infinite epoch": b"step,epoch,loss\n1,1e400,2\n",
    "5,000 digits": b"step,epoch,loss\n1,1," + b"9" * 5000 + b"\n",
    "no loss": b"step,epoch\n1,1\n",
}
RANKINGS = {
    "NaN": b"iou,score\n0.5,0.5\nnan,0.5\n",
    "true": b"iou,score\ntrue,0.5\n",
    "percent": b"iou,score\n0.5,41.0\n",
    "negative": b"iou,score\n-0.5,0.4\n",
    "missing": b"iou,score\n0.5\n",
}
CASES = [
    *(
        (read, name, content)
        for read in (read_table_file, read_log, read_ranking_file)
        for name, content in FORMLESS.items()
    ),
    *((read_table_file, name, content) for name, content in TABLES.items()),
    *((read_log, name, content) for name, content in LOGS.items()),
    *((read_ranking_file, name, content) for name, content in RANKINGS.items()),
]


def problem(read, file):
    with pytest.raises(WorkbenchError) as error:
        read(file)
    message = str(error.value)
    assert message.startswith(f"{file}: ")
    assert "; " in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("read", "name", "content"), CASES, ids=[f"{read.__name__}, {name}" for read, name, _ in CASES]
)
def test_a_file_of_the_wrong_form_is_one_line(read, name, content, tmp_path):
    file = tmp_path / "table3.csv"
    file.write_bytes(content)
    assert f"{file}: not a " in problem(read, file)


@pytest.mark.parametrize("read", [read_table_file, read_log, read_ranking_file])
def test_a_path_without_a_file_is_one_line(read, tmp_path):
    assert "no such" in problem(read, tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    assert "not a file" in problem(read, tmp_path / "folder.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    assert "not a file" in problem(read, tmp_path / "pipe.csv")


def test_good_files_are_read(tmp_path):
    (tmp_path / "train.csv").write_text("step,epoch,lr,loss,val_ap\n1,1,x,2.5,\n2,1,x,inf,0.1\n")
    assert list(read_log(tmp_path / "train.csv")["step"]) == [1, 2]
    (tmp_path / "empty.csv").write_text("step,epoch,loss\n")
    assert read_log(tmp_path / "empty.csv").empty
    (tmp_path / "ranking.csv").write_text("iou,score\n0,1\n")
    assert len(read_ranking_file(tmp_path / "ranking.csv")) == 1
    (tmp_path / "none.csv").write_text("iou,score\n")
    assert read_ranking_file(tmp_path / "none.csv").empty
