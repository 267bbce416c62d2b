"""What lies behind an earlier answer: known by its last usage, within bounds."""

import msgspec

from sentinel.openai.tokens.histories import Histories
from sentinel.ops.records import Call, Dialect, Ids, Usage

CALL = Call("responses", "POST", "/responses", dialect=Dialect.RESPONSES)
IN_CONVERSATION = msgspec.structs.replace(CALL, referenced_ids=Ids(frozenset({"conv_1", "file-1"})))


def test_what_goes_on_from_an_answer_has_all_of_it_before() -> None:
    """Input and output of the last usage under that id; the default where none was seen, or nothing was read."""
    histories = Histories(30)
    histories.learn(CALL, "resp_1", Usage(100, 20))
    histories.learn(CALL, "resp_2", Usage(0, 20))
    histories.learn(CALL, "", Usage(7, 7))
    assert [histories.tokens({name}) for name in ("resp_1", "resp_2", "")] == [120, 30, 30]
    assert histories.tokens(()) == 30


def test_a_conversation_grows() -> None:
    """Each answer in a conversation is part of it; a file that was named beside it is not."""
    histories = Histories(30)
    histories.learn(IN_CONVERSATION, "", Usage(100, 20))
    histories.learn(IN_CONVERSATION, "resp_9", Usage(150, 20))
    assert [histories.tokens({name}) for name in ("conv_1", "resp_9", "file-1")] == [170, 170, 30]
    histories.learn(CALL, "resp_1", Usage(1, 1))
    assert histories.tokens({"file-1", "resp_1", "conv_1"}) == 170


def test_what_is_remembered_is_bounded() -> None:
    """Those that were seen longest ago are forgotten."""
    histories = Histories(30, histories_max=2)
    for name in ("resp_1", "resp_2", "resp_1", "resp_3"):
        histories.learn(CALL, name, Usage(1, 1))
    assert [histories.tokens({name}) for name in ("resp_1", "resp_2", "resp_3")] == [2, 30, 2]
