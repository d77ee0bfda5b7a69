//! What stands before a server that speaks no TLS: a door that does, with certificates made for a test.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot have what it needs has failed"
)]

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls::{
    RootCertStore, ServerConfig, crypto::ring::default_provider, pki_types::PrivatePkcs8KeyDer,
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream, UnixStream},
};
use tokio_rustls::TlsAcceptor;

/// Who issues certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
pub struct Issued {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    pub fn issue(&self, name: &str) -> Issued {
        self.issue_with(CertificateParams::new(vec![name.to_owned()]).unwrap())
    }

    pub fn issue_expired(&self, name: &str) -> Issued {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
        self.issue_with(params)
    }

    fn issue_with(&self, params: CertificateParams) -> Issued {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Issued { certificate, key }
    }
}

impl Issued {
    pub fn self_signed(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate, key }
    }

    pub fn certificate_pem(&self) -> String {
        self.certificate.pem()
    }

    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }
}

/// What stands behind the door.
#[derive(Debug, Clone)]
pub enum Behind {
    Tcp(SocketAddr),
    /// PostgreSQL, which is asked for TLS before it is spoken.
    Postgres(PathBuf),
}

/// Opens a door with this certificate, which lets in only those with a certificate by `clients`, if that is given.
pub async fn door(behind: Behind, shown: &Issued, clients: Option<&Authority>) -> SocketAddr {
    let provider = Arc::new(default_provider());
    let config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let config = match clients {
        None => config.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.0.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            config.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let key = PrivatePkcs8KeyDer::from(shown.key.serialize_der());
    let config = config
        .with_single_cert(vec![shown.certificate.der().clone()], key.into())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    accept(behind, Some(acceptor)).await
}

/// Opens a door without TLS: PostgreSQL then says that it speaks none.
pub async fn plain_door(behind: Behind) -> SocketAddr {
    accept(behind, None).await
}

async fn accept(behind: Behind, acceptor: Option<TlsAcceptor>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // What a client does that is refused is looked at there.
            let _refused = tokio::spawn(pass(stream, behind.clone(), acceptor.clone()));
        }
    });
    address
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

async fn pass(
    mut stream: TcpStream,
    behind: Behind,
    acceptor: Option<TlsAcceptor>,
) -> std::io::Result<()> {
    let mut inside: Box<dyn Stream> = match &behind {
        Behind::Tcp(address) => Box::new(TcpStream::connect(address).await?),
        Behind::Postgres(socket) => Box::new(UnixStream::connect(socket).await?),
    };
    if matches!(behind, Behind::Postgres(_)) && acceptor.is_some() {
        // SSLRequest: its length and its code.
        let mut request = [0; 8];
        stream.read_exact(&mut request).await?;
        if request != [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f] {
            return Ok(());
        }
        stream.write_all(b"S").await?;
    }
    let mut outside: Box<dyn Stream> = match acceptor {
        Some(acceptor) => Box::new(acceptor.accept(stream).await?),
        None => Box::new(stream),
    };
    copy_bidirectional(&mut outside, &mut inside).await?;
    Ok(())
}
