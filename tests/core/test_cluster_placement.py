"""Which placement groups are abandoned; that they are freed for real is in tests/jobs/test_path_search.py."""

from ray.core.generated import gcs_pb2

from quantfleet.cluster.placement import abandoned_groups

JOB, OTHER = b"\x01\x00\x00\x00", b"\x02\x00\x00\x00"


def group(name: bytes, **changes: object) -> gcs_pb2.PlacementGroupTableData:
    fields: dict[str, object] = {
        "creator_job_id": JOB,
        "creator_actor_id": b"\x05" * 16,
        "creator_actor_dead": True,
        "state": gcs_pb2.PlacementGroupTableData.CREATED,
    }
    return gcs_pb2.PlacementGroupTableData(placement_group_id=name, **{**fields, **changes})


def test_only_groups_of_this_job_whose_actor_is_dead_are_abandoned():
    records = [
        group(b"abandoned"),
        group(b"still waiting for resources", state=gcs_pb2.PlacementGroupTableData.PENDING),
        group(b"of a living actor", creator_actor_dead=False),
        group(b"of another job", creator_job_id=OTHER),
        group(b"already removed", state=gcs_pb2.PlacementGroupTableData.REMOVED),
        group(b"meant to outlive its maker", is_detached=True),
        group(b"made by the driver", creator_actor_id=b"\xff" * 16),
    ]

    assert abandoned_groups(records, JOB) == [b"abandoned", b"still waiting for resources"]
