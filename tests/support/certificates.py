"""A certificate authority for tests: of servers that speak HTTPS, and of nodes that encrypt as Ray does."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = dt.timedelta(days=1)


class Authority:
    """A certificate authority for one test run.

    Attributes:
        bundle: A file with its certificate.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"hubdist tests {folder.name}")])
        own = self._builder(self._name, self._key, -DAY, DAY)
        own = own.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.bundle = folder / "authority.pem"
        self.bundle.write_bytes(own.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def context(self, name: str, *, begins: dt.timedelta = -DAY, ends: dt.timedelta = DAY) -> ssl.SSLContext:
        """A server's context with a certificate.

        Args:
            name: The host that the certificate is for.
            begins: When it begins to be valid, from now.
            ends: When it ends to be valid, from now.
        """
        certificate, key, _ = self.files(name, begins=begins, ends=ends)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        return context

    def files(
        self, name: str, *addresses: str, begins: dt.timedelta = -DAY, ends: dt.timedelta = DAY
    ) -> tuple[str, str, str]:
        """Files with a certificate, its key, and this authority's certificate.

        Args:
            name: The host that the certificate is for.
            *addresses: IP addresses that it is for too.
            begins: When it begins to be valid, from now.
            ends: When it ends to be valid, from now.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        own = ("127.0.0.1",) if name == "localhost" else ()
        names = [x509.DNSName(name), *(x509.IPAddress(ipaddress.ip_address(each)) for each in (*addresses, *own))]
        signed = self._builder(subject, key, begins, ends)
        signed = signed.add_extension(x509.SubjectAlternativeName(names), critical=False)
        at = self._folder / f"{name}{begins.days}{ends.days}"
        certificate, private = at.with_name(f"{at.name}.crt"), at.with_name(f"{at.name}.key")
        certificate.write_bytes(signed.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return str(certificate), str(private), str(self.bundle)

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, begins: dt.timedelta, ends: dt.timedelta
    ) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + ends)
        )
