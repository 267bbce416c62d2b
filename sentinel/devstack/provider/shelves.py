"""Conversations, containers, skills, videos and voices: with their items, files and versions. Raises `RefusedError`."""

import time
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from sentinel.devstack.provider import kinds, prompt
from sentinel.devstack.provider.asked import Asked
from sentinel.devstack.provider.checks import refused, require
from sentinel.devstack.provider.files import send_file, the_file
from sentinel.devstack.provider.objects import Collection, Routes, ends, new
from sentinel.devstack.provider.sending import reply, send_content
from sentinel.devstack.provider.store import Thing, page

VIDEO_BYTES: Final = 262_144

# Conversations


def _conversation(asked: Asked) -> Mapping[str, Any]:
    return {"metadata": asked.fields.get("metadata") or {}}


def _add_items(asked: Asked, conversation: Thing) -> list[dict[str, Any]]:
    items = prompt.items(asked.fields.get("items"))
    for item in items:
        asked.desk.store.put(Thing(kinds.ITEM, item["id"], conversation.id, item))
    return items


def _conversation_made(asked: Asked, conversation: Thing) -> None:
    _add_items(asked, conversation)


async def add_items(asked: Asked) -> web.StreamResponse:
    """POST /v1/conversations/{id}/items."""
    conversation = CONVERSATIONS.thing(asked)
    require(asked.fields, "items")
    return await reply(asked, page(_add_items(asked, conversation), {"limit": "100"}, newest_first=False))


async def delete_item(asked: Asked) -> web.StreamResponse:
    """DELETE /v1/conversations/{id}/items/{id}: answers the conversation."""
    asked.desk.store.drop(ITEMS.thing(asked))
    return await reply(asked, CONVERSATIONS.thing(asked).shown)


# Containers


def _container(asked: Asked) -> Mapping[str, Any]:
    require(asked.fields, "name")
    return {
        "name": asked.fields["name"],
        "status": "running",
        "expires_after": asked.fields.get("expires_after") or {"anchor": "last_active_at", "minutes": 20},
        "last_active_at": int(time.time()),
        "memory_limit": asked.fields.get("memory_limit") or "1g",
    }


async def add_container_file(asked: Asked) -> web.StreamResponse:
    """POST /v1/containers/{id}/files: a form with a file, or the id of one in JSON."""
    container = CONTAINERS.thing(asked)
    if asked.is_form:
        file = the_file(asked)
        name, size_bytes, content = file.filename, file.size_bytes, bytes(file.content) if file.whole else None
        generated_bytes = None
    else:
        require(asked.fields, "file_id")
        source = asked.desk.store.get(kinds.FILE, asked.fields["file_id"], status=400, param="file_id")
        name, size_bytes, content = source.shown["filename"], source.shown["bytes"], source.content
        generated_bytes = source.content_bytes
    fields = {"bytes": size_bytes, "container_id": container.id, "path": f"/mnt/data/{name}", "source": "user"}
    thing = new(asked, kinds.CONTAINER_FILE, fields, parent=container.id)
    thing.content, thing.content_bytes = content, generated_bytes
    return await reply(asked, thing.shown)


async def container_content(asked: Asked) -> web.StreamResponse:
    """GET /v1/containers/{id}/files/{id}/content."""
    return await send_file(asked, CONTAINER_FILES.thing(asked))


# Skills


def _skill(asked: Asked) -> Mapping[str, Any]:
    if not asked.files:
        raise refused(400, "Missing required parameter: 'files'.", param="files", code="missing_required_parameter")
    name = asked.files[0].filename.split("/")[0] or "skill"
    return {"name": name, "description": "A simulated skill.", "default_version": "1", "latest_version": "1"}


def _skill_made(asked: Asked, skill: Thing) -> None:
    _add_version(asked, skill, "1")


def _add_version(asked: Asked, skill: Thing, version: str) -> Thing:
    """A version; in paths it goes by its number."""
    fields = {"skill_id": skill.id, "version": version, "name": skill.shown["name"], "description": skill.shown["description"]}
    thing = new(asked, kinds.SKILL_VERSION, fields, parent=skill.id, name=version)
    thing.shown["id"] = kinds.SKILL_VERSION.new_id()
    file = asked.files[0]
    thing.content = bytes(file.content)
    return thing


async def add_version(asked: Asked) -> web.StreamResponse:
    """POST /v1/skills/{id}/versions."""
    skill = SKILLS.thing(asked)
    if not asked.files:
        raise refused(400, "Missing required parameter: 'files'.", param="files", code="missing_required_parameter")
    thing = _add_version(asked, skill, str(int(skill.shown["latest_version"]) + 1))
    skill.shown["latest_version"] = thing.id
    return await reply(asked, thing.shown)


async def delete_version(asked: Asked) -> web.StreamResponse:
    """DELETE /v1/skills/{id}/versions/{version}."""
    thing = VERSIONS.thing(asked)
    asked.desk.store.drop(thing)
    shown = {"id": thing.shown["id"], "object": "skill.version.deleted", "deleted": True, "version": thing.id}
    return await reply(asked, shown)


async def skill_content(asked: Asked) -> web.StreamResponse:
    """GET /v1/skills/{id}/content, and that of one version."""
    skill = SKILLS.thing(asked)
    version = asked.ids.get("version") or skill.shown["default_version"]
    thing = asked.desk.store.get(kinds.SKILL_VERSION, version, skill.id)
    headers = {"content-disposition": f'attachment; filename="{skill.shown["name"]}.zip"'}
    return await reply(asked, thing.content or b"", content_type="application/zip", headers=headers)


# Videos


def _video(asked: Asked, source: Thing | None = None) -> Mapping[str, Any]:
    body = asked.fields
    require(body, "prompt")
    before = source.shown if source else {}
    return {
        "model": asked.model(before.get("model") or "sora-2"),
        "prompt": body["prompt"],
        "status": "queued",
        "progress": 0,
        "seconds": str(body.get("seconds") or before.get("seconds") or "4"),
        "size": body.get("size") or before.get("size") or "720x1280",
        "remixed_from_video_id": source.id if source else None,
        "completed_at": None,
        "expires_at": None,
        "error": None,
    }


def _video_made(asked: Asked, video: Thing) -> None:
    done = {"status": "completed", "progress": 100, "completed_at": int(time.time())}
    ends(asked, video, waiting=("queued", "in_progress"), then=lambda: done)


async def remix(asked: Asked) -> web.StreamResponse:
    """POST /v1/videos/{id}/remix."""
    return await _again(asked, VIDEOS.thing(asked))


async def rework(asked: Asked) -> web.StreamResponse:
    """POST /v1/videos/edits and /v1/videos/extensions: of a video that is named in `video`, or sent in a form."""
    named = asked.fields.get("video")
    name = named.get("id") if isinstance(named, dict) else named or asked.fields.get("video[id]")
    return await _again(asked, asked.desk.store.get(kinds.VIDEO, str(name)) if name else None)


async def _again(asked: Asked, source: Thing | None) -> web.StreamResponse:
    video = new(asked, kinds.VIDEO, _video(asked, source))
    answer = dict(video.shown)
    _video_made(asked, video)
    return await reply(asked, answer)


async def video_content(asked: Asked) -> web.StreamResponse:
    """GET /v1/videos/{id}/content: VIDEO_BYTES generated bytes, or the picture of them that `variant` asks for."""
    video = VIDEOS.thing(asked)
    if video.shown["status"] != "completed":
        raise refused(400, "Video is not ready yet, use GET /v1/videos/{video_id} to check status.")
    kind = {"thumbnail": "image/webp", "spritesheet": "image/jpeg"}.get(asked.request.query.get("variant", ""), "video/mp4")
    return await send_content(asked, VIDEO_BYTES, filename=f"{video.id}.{kind.split('/')[1]}", content_type=kind)


def _character(asked: Asked) -> Mapping[str, Any]:
    require(asked.fields, "name")
    the_file(asked, "video")
    return {"name": asked.fields["name"]}


# Voices


def _consent(asked: Asked) -> Mapping[str, Any]:
    require(asked.fields, "name", "language")
    the_file(asked, "recording")
    return {"name": asked.fields["name"], "language": asked.fields["language"]}


async def add_voice(asked: Asked) -> web.StreamResponse:
    """POST /v1/audio/voices: from a recording, with the consent of whoever speaks, or from a description."""
    require(asked.fields, "name")
    sampled = asked.fields.get("type") != "prompt"
    if sampled:
        the_file(asked, "audio_sample")
        require(asked.fields, "consent")
        asked.desk.store.get(kinds.CONSENT, asked.fields["consent"], status=400, param="consent")
    fields = {"name": asked.fields["name"], "type": "audio_sample" if sampled else "prompt"}
    return await reply(asked, new(asked, kinds.VOICE, fields).shown)


CONVERSATIONS: Final = Collection(
    "/v1/conversations",
    "conversation_id",
    kinds.CONVERSATION,
    _conversation,
    changes=("metadata",),
    gone="conversation.deleted",
    made=_conversation_made,
)
ITEMS: Final = Collection("/v1/conversations/{conversation_id}/items", "item_id", kinds.ITEM, above=CONVERSATIONS)
CONTAINERS: Final = Collection("/v1/containers", "container_id", kinds.CONTAINER, _container, gone="")
_CONTAINER_FILES: Final = "/v1/containers/{container_id}/files"
CONTAINER_FILES: Final = Collection(_CONTAINER_FILES, "file_id", kinds.CONTAINER_FILE, above=CONTAINERS, gone="")
SKILLS: Final = Collection(
    "/v1/skills", "skill_id", kinds.SKILL, _skill, changes=("default_version",), gone="skill.deleted", made=_skill_made
)
VERSIONS: Final = Collection("/v1/skills/{skill_id}/versions", "version", kinds.SKILL_VERSION, above=SKILLS)
VIDEOS: Final = Collection("/v1/videos", "video_id", kinds.VIDEO, _video, gone="video.deleted", made=_video_made)
CHARACTERS: Final = Collection("/v1/videos/characters", "character_id", kinds.CHARACTER, _character)
VOICES: Final = Collection("/v1/audio/voices", "voice_id", kinds.VOICE, gone="audio.voice.deleted")
CONSENTS: Final = Collection(
    "/v1/audio/voice_consents", "consent_id", kinds.CONSENT, _consent, changes=("name",), gone="audio.voice_consent"
)


def routes() -> Routes:
    """The rows of the route table."""
    yield "POST", "/v1/videos/edits", rework
    yield "POST", "/v1/videos/extensions", rework
    yield from (row for row in CHARACTERS.routes() if row[:2] != ("GET", CHARACTERS.path))
    for collection in (CONTAINERS, CONTAINER_FILES, SKILLS, VERSIONS, VIDEOS, ITEMS, CONSENTS):
        yield from collection.routes()
    yield from (row for row in CONVERSATIONS.routes() if row[:2] != ("GET", CONVERSATIONS.path))
    yield from (row for row in VOICES.routes() if row[0] == "DELETE")
    yield "POST", VOICES.path, add_voice
    yield "POST", ITEMS.path, add_items
    yield "DELETE", f"{ITEMS.path}/{{item_id}}", delete_item
    yield "POST", _CONTAINER_FILES, add_container_file
    yield "GET", f"{_CONTAINER_FILES}/{{file_id}}/content", container_content
    yield "POST", VERSIONS.path, add_version
    yield "DELETE", f"{VERSIONS.path}/{{version}}", delete_version
    yield "GET", "/v1/skills/{skill_id}/content", skill_content
    yield "GET", f"{VERSIONS.path}/{{version}}/content", skill_content
    yield "POST", "/v1/videos/{video_id}/remix", remix
    yield "GET", "/v1/videos/{video_id}/content", video_content
