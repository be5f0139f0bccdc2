"""The kinds of things that we make, with OpenMetadata's own models: what is sent is checked against them first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from metadata.generated.schema.api.classification.createClassification import CreateClassificationRequest
from metadata.generated.schema.api.classification.createTag import CreateTagRequest
from metadata.generated.schema.api.data.createDashboard import CreateDashboardRequest
from metadata.generated.schema.api.data.createDatabase import CreateDatabaseRequest
from metadata.generated.schema.api.data.createDatabaseSchema import CreateDatabaseSchemaRequest
from metadata.generated.schema.api.data.createPipeline import CreatePipelineRequest
from metadata.generated.schema.api.data.createTable import CreateTableRequest
from metadata.generated.schema.api.services.createDashboardService import CreateDashboardServiceRequest
from metadata.generated.schema.api.services.createDatabaseService import CreateDatabaseServiceRequest
from metadata.generated.schema.api.services.createPipelineService import CreatePipelineServiceRequest
from metadata.generated.schema.api.tests.createTestCase import CreateTestCaseRequest
from metadata.generated.schema.api.tests.createTestDefinition import CreateTestDefinitionRequest
from metadata.generated.schema.api.tests.createTestSuite import CreateTestSuiteRequest
from metadata.ingestion.ometa.routes import ROUTES
from pydantic import BaseModel, ValidationError

from dml_openmetadata.errors import Refused

Model = type[BaseModel]


@dataclass(frozen=True)
class Kind:
    """One kind. ``fields`` are those that the server gives only when asked."""

    type: str
    label: str
    create: Model
    fields: tuple[str, ...] = ()

    @property
    def route(self) -> str:
        """Where its entities are."""
        return str(ROUTES[self.create.__name__])


DATABASE_SERVICE = Kind("databaseService", "database service", CreateDatabaseServiceRequest)
PIPELINE_SERVICE = Kind("pipelineService", "pipeline service", CreatePipelineServiceRequest)
DASHBOARD_SERVICE = Kind("dashboardService", "dashboard service", CreateDashboardServiceRequest)
CLASSIFICATION = Kind("classification", "classification", CreateClassificationRequest)
TAG = Kind("tag", "tag", CreateTagRequest)
DATABASE = Kind("database", "database", CreateDatabaseRequest, ("owners", "sourceHash"))
SCHEMA = Kind("databaseSchema", "schema", CreateDatabaseSchemaRequest, ("owners", "sourceHash"))
TABLE = Kind(
    "table",
    "table",
    CreateTableRequest,
    ("columns", "tableConstraints", "owners", "tags", "dataModel", "sourceHash"),
)
PIPELINE = Kind("pipeline", "pipeline", CreatePipelineRequest, ("tasks", "owners", "scheduleInterval", "sourceHash"))
DASHBOARD = Kind("dashboard", "dashboard", CreateDashboardRequest, ("owners", "tags", "sourceHash"))
TEST_DEFINITION = Kind("testDefinition", "test definition", CreateTestDefinitionRequest)
TEST_SUITE = Kind("testSuite", "test suite", CreateTestSuiteRequest)
TEST_CASE = Kind("testCase", "test", CreateTestCaseRequest, ("testDefinition", "owners"))


@dataclass(frozen=True)
class Wanted:
    """An entity as it should be.

    Args:
        create: what only its creation says.
        ours: fields that are always ours.
        shared: ``description``, ``owners`` (references) and ``tags`` (names), which people edit as well.
        columns: of a table: our part of each, with description and tags.
    """

    kind: Kind
    fqn: str
    create: Mapping[str, Any]
    ours: Mapping[str, Any] = field(default_factory=dict)
    shared: Mapping[str, Any] = field(default_factory=dict)
    columns: tuple[Mapping[str, Any], ...] | None = None

    @property
    def key(self) -> str:
        """Its name in our state."""
        return f"{self.kind.type}:{self.fqn}"


def checked(model: type[BaseModel], body: Mapping[str, Any]) -> dict[str, Any]:
    """A body that OpenMetadata's model accepts, as it was.

    Raises:
        Refused: it does not.
    """
    try:
        model.model_validate(dict(body))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise Refused(422, f"its own model says of {place}: {first['msg']}") from None
    return dict(body)


def tag_label(fqn: str) -> dict[str, Any]:
    """A tag on something."""
    return {"tagFQN": fqn, "source": "Classification", "labelType": "Automated", "state": "Confirmed"}
