"""The one place where sdc11073 (extra `sdc`) is imported, and what provider and consumer share."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

from smallhold.assist.sources.address import Credentials
from smallhold.errors import InputError, MissingExtraError

#: IEEE 11073-10207: a coded value without a coding system is of ISO/IEEE 11073-10101.
MDC_SYSTEM = "urn:oid:1.2.840.10004.1.1.1.0.0.1"
PATIENT_ROOT = "urn:smallhold:patient"


def library() -> Any:
    """The names of sdc11073 that are used.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        from sdc11073 import certloader, observableproperties
        from sdc11073.consumer.consumerimpl import SdcConsumer  # 2.1 and 3.0 do not offer it in the package itself
        from sdc11073.definitions_sdc import SdcV1Definitions
        from sdc11073.mdib.consumermdib import ConsumerMdib
        from sdc11073.mdib.providermdib import ProviderMdib
        from sdc11073.provider.providerimpl import SdcProvider
        from sdc11073.xml_types import pm_types
        from sdc11073.xml_types.dpws_types import ThisDeviceType, ThisModelType
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "sdc11073", "sdc", "IEEE 11073 SDC") from error
    # What goes wrong is in statuses; on standard error the library would quote what was sent.
    logging.getLogger("sdc").addHandler(logging.NullHandler())
    return SimpleNamespace(
        certloader=certloader,
        observe=observableproperties.strongbind,  # `bind` keeps a weak reference, and a closure is gone at once
        SdcConsumer=SdcConsumer,
        Definitions=SdcV1Definitions,
        ConsumerMdib=ConsumerMdib,
        ProviderMdib=ProviderMdib,
        SdcProvider=SdcProvider,
        pm_types=pm_types,
        ThisDeviceType=ThisDeviceType,
        ThisModelType=ThisModelType,
    )


def contexts(sdc: Any, credentials: Credentials | None) -> Any:
    """Both TLS contexts of one side, None without credentials: in SDC each side is client and server.

    Raises:
        InputError: the authorities or our certificate are missing; SDC wants certificates on both sides.
    """
    if credentials is None:
        return None
    if credentials.ca_file is None or credentials.certificate_file is None:
        raise InputError("SDC over TLS: expected ca_file, certificate_file and key_file: both sides show certificates")
    client = credentials.client_context()
    # Devices are reached by address, and their certificates name devices: the authority vouches for them (SDC glue
    # standard IEEE 11073-20701, annex on security), not the name.
    client.check_hostname = False
    return sdc.certloader.SSLContextContainer(client, credentials.server_context())


class NoDiscovery:
    """Stands where the library looks for WS-Discovery: says where to listen, and announces nothing by multicast."""

    def __init__(self, host: str) -> None:
        self.active_address = host

    def publish_service(self, *_: Any) -> None:
        """Nothing is announced."""

    def clear_service(self, epr: str) -> None:
        """Nothing was announced."""
        raise KeyError(epr)
