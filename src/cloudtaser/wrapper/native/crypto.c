/* Cryptography of the sealed mode, on OpenSSL's libcrypto (spec/wire.md, "Unseal envelope, version 2").
 *
 * `wrapper/envelope.py` calls it. Private keys, shared secrets and plaintexts go from buffer to buffer and never
 * into a Python object; what OpenSSL needs for a moment it wipes when it frees it. Refusals are ValueError with a
 * phrase of ours: OpenSSL's own error queue is always left empty, because `_ssl` looks at the same one.
 */

#include "native.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#define KEY_SIZE 32
#define TAG_SIZE 16
#define NONCE_SIZE 12
#define SECURITY_LEVEL 2 /* OpenSSL's: 112 bits at least, no SHA-1 */
#define DOCUMENT_SIGNING "1.3.6.1.5.5.7.3.36" /* RFC 9336; no TLS peer takes it */

static PyObject *
refuse(const char *reason)
{
    ERR_clear_error();
    PyErr_SetString(PyExc_ValueError, reason);
    return NULL;
}

static PyObject *
done(void)
{
    ERR_clear_error();
    Py_RETURN_NONE;
}

static int
overlap(const Py_buffer *a, const Py_buffer *b)
{
    const char *first = a->buf, *second = b->buf;
    return first < second + b->len && second < first + a->len;
}

/* -- X25519 (RFC 7748) ------------------------------------------------------------------------------------- */

PyDoc_STRVAR(x25519_generate_doc,
"x25519_generate(private, /)\n--\n\n"
"Fill the 32 bytes of `private` with a new key from the kernel; its public key.");

static PyObject *
x25519_generate(PyObject *module, PyObject *arguments)
{
    Py_buffer private;
    unsigned char public[KEY_SIZE];
    size_t size = sizeof public;
    EVP_PKEY *key = NULL;
    int good;

    if (!PyArg_ParseTuple(arguments, "w*", &private))
        return NULL;
    if (private.len != KEY_SIZE) {
        PyBuffer_Release(&private);
        return refuse("a private key has 32 bytes");
    }
    while (getrandom(private.buf, KEY_SIZE, 0) != KEY_SIZE) {
        if (errno != EINTR) {
            PyBuffer_Release(&private);
            return PyErr_SetFromErrno(PyExc_OSError);
        }
    }
    key = EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, NULL, private.buf, KEY_SIZE);
    good = key != NULL && EVP_PKEY_get_raw_public_key(key, public, &size) == 1 && size == KEY_SIZE;
    EVP_PKEY_free(key);
    PyBuffer_Release(&private);
    if (!good)
        return refuse("no key could be made");
    ERR_clear_error();
    return PyBytes_FromStringAndSize((const char *)public, KEY_SIZE);
}

PyDoc_STRVAR(x25519_doc,
"x25519(private, peer, shared, /)\n--\n\n"
"Write into the 32 bytes of `shared` what `private` agrees on with the public key `peer`. ValueError where that is\n"
"all zeros: the peer's point is of small order (RFC 7748, section 6.1).");

static PyObject *
x25519(PyObject *module, PyObject *arguments)
{
    static const unsigned char zeros[KEY_SIZE];
    Py_buffer private, peer, shared;
    size_t size = KEY_SIZE;
    EVP_PKEY *mine = NULL, *theirs = NULL;
    EVP_PKEY_CTX *context = NULL;
    int good = 0;

    if (!PyArg_ParseTuple(arguments, "y*y*w*", &private, &peer, &shared))
        return NULL;
    if (private.len == KEY_SIZE && peer.len == KEY_SIZE && shared.len == KEY_SIZE) {
        mine = EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, NULL, private.buf, KEY_SIZE);
        theirs = EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, NULL, peer.buf, KEY_SIZE);
        context = mine != NULL && theirs != NULL ? EVP_PKEY_CTX_new(mine, NULL) : NULL;
        good = context != NULL && EVP_PKEY_derive_init(context) == 1 &&
               EVP_PKEY_derive_set_peer(context, theirs) == 1 &&
               EVP_PKEY_derive(context, shared.buf, &size) == 1 && size == KEY_SIZE &&
               CRYPTO_memcmp(shared.buf, zeros, KEY_SIZE) != 0;
        if (!good)
            OPENSSL_cleanse(shared.buf, KEY_SIZE);
    }
    EVP_PKEY_CTX_free(context);
    EVP_PKEY_free(mine);
    EVP_PKEY_free(theirs);
    PyBuffer_Release(&private);
    PyBuffer_Release(&peer);
    PyBuffer_Release(&shared);
    return good ? done() : refuse("an X25519 key that agrees on nothing");
}

/* -- HKDF-SHA-256 (RFC 5869) ------------------------------------------------------------------------------- */

PyDoc_STRVAR(hkdf_sha256_doc,
"hkdf_sha256(secret, salt, info, key, /)\n--\n\n"
"Fill `key` from the secret; as long as `key` is, 8,160 bytes at most.");

static PyObject *
hkdf_sha256(PyObject *module, PyObject *arguments)
{
    Py_buffer secret, salt, info, key;
    EVP_KDF *kdf = NULL;
    EVP_KDF_CTX *context = NULL;
    int good = 0;

    if (!PyArg_ParseTuple(arguments, "y*y*y*w*", &secret, &salt, &info, &key))
        return NULL;
    if (secret.len > 0 && key.len > 0 && key.len <= 255 * 32) {
        OSSL_PARAM parameters[] = {
            OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char *)"SHA256", 0),
            OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, secret.buf, (size_t)secret.len),
            OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, salt.buf, (size_t)salt.len),
            OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info.buf, (size_t)info.len),
            OSSL_PARAM_construct_end(),
        };
        kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
        context = kdf != NULL ? EVP_KDF_CTX_new(kdf) : NULL;
        good = context != NULL && EVP_KDF_derive(context, key.buf, (size_t)key.len, parameters) == 1;
        if (!good)
            OPENSSL_cleanse(key.buf, (size_t)key.len);
    }
    EVP_KDF_CTX_free(context);
    EVP_KDF_free(kdf);
    PyBuffer_Release(&secret);
    PyBuffer_Release(&salt);
    PyBuffer_Release(&info);
    PyBuffer_Release(&key);
    return good ? done() : refuse("no key could be derived");
}

/* -- AES-256-GCM (NIST SP 800-38D) ------------------------------------------------------------------------- */

PyDoc_STRVAR(aes_256_gcm_open_doc,
"aes_256_gcm_open(key, nonce, data, associated, plaintext, /)\n--\n\n"
"Decrypt `data`, a ciphertext with its tag of 16 bytes behind it, into `plaintext`, which is 16 bytes shorter and\n"
"lies elsewhere. ValueError, and zeros in `plaintext`, where the tag does not hold.");

static int
open_gcm(const Py_buffer *key, const Py_buffer *nonce, const Py_buffer *data, const Py_buffer *associated,
         Py_buffer *plaintext)
{
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    unsigned char *tag = (unsigned char *)data->buf + plaintext->len;
    int size = 0, last = 0, good;

    good = context != NULL && EVP_DecryptInit_ex(context, EVP_aes_256_gcm(), NULL, key->buf, nonce->buf) == 1 &&
           EVP_DecryptUpdate(context, NULL, &size, associated->buf, (int)associated->len) == 1 &&
           EVP_DecryptUpdate(context, plaintext->buf, &size, data->buf, (int)plaintext->len) == 1 &&
           size == plaintext->len && EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_GCM_SET_TAG, TAG_SIZE, tag) == 1 &&
           EVP_DecryptFinal_ex(context, (unsigned char *)plaintext->buf + size, &last) == 1 && last == 0;
    EVP_CIPHER_CTX_free(context);
    if (!good)
        OPENSSL_cleanse(plaintext->buf, (size_t)plaintext->len);
    return good;
}

static PyObject *
aes_256_gcm_open(PyObject *module, PyObject *arguments)
{
    Py_buffer key, nonce, data, associated, plaintext;
    int good = 0;

    if (!PyArg_ParseTuple(arguments, "y*y*y*y*w*", &key, &nonce, &data, &associated, &plaintext))
        return NULL;
    if (key.len == KEY_SIZE && nonce.len == NONCE_SIZE && plaintext.len > 0 && plaintext.len <= 1 << 24 &&
        data.len == plaintext.len + TAG_SIZE && associated.len <= 1 << 24 && !overlap(&data, &plaintext))
        good = open_gcm(&key, &nonce, &data, &associated, &plaintext);
    PyBuffer_Release(&key);
    PyBuffer_Release(&nonce);
    PyBuffer_Release(&data);
    PyBuffer_Release(&associated);
    PyBuffer_Release(&plaintext);
    return good ? done() : refuse("it does not decrypt");
}

/* -- X.509 (RFC 5280) -------------------------------------------------------------------------------------- */

/* The certificate that is all of `der`, or NULL. */
static X509 *
read_certificate(const Py_buffer *der)
{
    const unsigned char *at = der->buf;
    X509 *certificate = der->len > 0 ? d2i_X509(NULL, &at, (long)der->len) : NULL;

    if (certificate != NULL && at != (const unsigned char *)der->buf + der->len) {
        X509_free(certificate);
        return NULL;
    }
    return certificate;
}

/* Every certificate of a PEM text, each trusted by itself; NULL where there is none or one cannot be read. */
static X509_STORE *
read_authorities(const Py_buffer *pem)
{
    BIO *text = BIO_new_mem_buf(pem->buf, (int)pem->len);
    X509_STORE *store = X509_STORE_new();
    X509 *certificate;
    int count = 0, good = text != NULL && store != NULL;

    while (good && (certificate = PEM_read_bio_X509(text, NULL, NULL, NULL)) != NULL) {
        good = X509_STORE_add_cert(store, certificate) == 1;
        count++;
        X509_free(certificate);
    }
    good = good && count > 0 && ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
    BIO_free(text);
    if (!good) {
        X509_STORE_free(store);
        return NULL;
    }
    return store;
}

/* A phrase for what is wrong with the leaf's way to the authorities, or NULL. */
static const char *
check_chain(X509_STORE *store, X509 *leaf, long long now)
{
    X509_STORE_CTX *context = X509_STORE_CTX_new();
    X509_VERIFY_PARAM *parameters;
    const char *problem = NULL;

    if (context == NULL || X509_STORE_CTX_init(context, store, leaf, NULL) != 1) {
        X509_STORE_CTX_free(context);
        return "no memory";
    }
    parameters = X509_STORE_CTX_get0_param(context);
    X509_VERIFY_PARAM_set_flags(parameters, X509_V_FLAG_X509_STRICT | X509_V_FLAG_CHECK_SS_SIGNATURE);
    X509_VERIFY_PARAM_set_depth(parameters, 0); /* nothing between the leaf and the authority */
    X509_VERIFY_PARAM_set_auth_level(parameters, SECURITY_LEVEL);
    X509_VERIFY_PARAM_set_time(parameters, (time_t)now);
    if (X509_verify_cert(context) != 1)
        switch (X509_STORE_CTX_get_error(context)) {
        case X509_V_ERR_CERT_HAS_EXPIRED:
        case X509_V_ERR_CERT_NOT_YET_VALID:
            problem = "the sealing certificate is out of its time";
            break;
        default:
            problem = "the sealing certificate is not one of the pod CA";
        }
    X509_STORE_CTX_free(context);
    return problem;
}

/* Whether the leaf's only name is that URI. */
static int
has_only_name(X509 *leaf, const char *uri, Py_ssize_t size)
{
    int critical, good = 0;
    GENERAL_NAMES *names = X509_get_ext_d2i(leaf, NID_subject_alt_name, &critical, NULL);

    /* a second extension of the kind makes NULL, too */
    if (names != NULL && sk_GENERAL_NAME_num(names) == 1) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, 0);
        if (name->type == GEN_URI) {
            const ASN1_IA5STRING *found = name->d.uniformResourceIdentifier;
            good = ASN1_STRING_length(found) == size &&
                   memcmp(ASN1_STRING_get0_data(found), uri, (size_t)size) == 0;
        }
    }
    GENERAL_NAMES_free(names);
    return good;
}

/* Whether the leaf's key may sign documents, and nothing else. */
static int
is_for_sealing(X509 *leaf)
{
    char text[64];
    int critical, good = 0;
    EXTENDED_KEY_USAGE *purposes;

    if (X509_check_ca(leaf) != 0 || !(X509_get_extension_flags(leaf) & EXFLAG_KUSAGE) ||
        X509_get_key_usage(leaf) != KU_DIGITAL_SIGNATURE)
        return 0;
    purposes = X509_get_ext_d2i(leaf, NID_ext_key_usage, &critical, NULL);
    if (purposes != NULL && sk_ASN1_OBJECT_num(purposes) == 1)
        good = OBJ_obj2txt(text, sizeof text, sk_ASN1_OBJECT_value(purposes, 0), 1) > 0 &&
               strcmp(text, DOCUMENT_SIGNING) == 0;
    EXTENDED_KEY_USAGE_free(purposes);
    return good;
}

PyDoc_STRVAR(check_leaf_doc,
"check_leaf(authorities, leaf, uri, now, /)\n--\n\n"
"ValueError unless the DER certificate `leaf` was signed by one of the PEM `authorities` itself, is in time at `now`\n"
"(seconds since the epoch), is named by `uri` and nothing else, and is for signing documents alone.");

static PyObject *
check_leaf(PyObject *module, PyObject *arguments)
{
    Py_buffer authorities, der;
    const char *uri, *problem = NULL;
    Py_ssize_t size;
    long long now;
    X509 *leaf;
    X509_STORE *store;

    if (!PyArg_ParseTuple(arguments, "y*y*s#L", &authorities, &der, &uri, &size, &now))
        return NULL;
    leaf = read_certificate(&der);
    store = read_authorities(&authorities);
    if (store == NULL)
        problem = "the pod CA cannot be read";
    else if (leaf == NULL)
        problem = "the sealing certificate cannot be read";
    else if ((problem = check_chain(store, leaf, now)) == NULL && !has_only_name(leaf, uri, size))
        problem = "the sealing certificate is not that of this cluster's operator";
    else if (problem == NULL && !is_for_sealing(leaf))
        problem = "the sealing certificate's key is for something else";
    X509_free(leaf);
    X509_STORE_free(store);
    PyBuffer_Release(&authorities);
    PyBuffer_Release(&der);
    return problem == NULL ? done() : refuse(problem);
}

/* The digest that goes with the key: SHA-256 with P-256, none with Ed25519; 0 for any other key. */
static int
choose_digest(EVP_PKEY *key, const EVP_MD **digest)
{
    char group[32];
    size_t size = 0;

    *digest = NULL;
    if (EVP_PKEY_is_a(key, "ED25519"))
        return 1;
    *digest = EVP_sha256();
    return EVP_PKEY_is_a(key, "EC") && EVP_PKEY_get_group_name(key, group, sizeof group, &size) == 1 &&
           strcmp(group, "prime256v1") == 0;
}

PyDoc_STRVAR(verify_doc,
"verify(certificate, message, signature, /)\n--\n\n"
"ValueError unless `signature` over `message` was made with the key of the DER `certificate`: ECDSA over P-256 with\n"
"SHA-256 (DER), or Ed25519.");

static PyObject *
verify(PyObject *module, PyObject *arguments)
{
    Py_buffer der, message, signature;
    X509 *certificate;
    EVP_PKEY *key;
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    const EVP_MD *digest;
    int good = 0, known;

    if (!PyArg_ParseTuple(arguments, "y*y*y*", &der, &message, &signature)) {
        EVP_MD_CTX_free(context);
        return NULL;
    }
    certificate = read_certificate(&der);
    key = certificate != NULL ? X509_get0_pubkey(certificate) : NULL;
    known = key != NULL && choose_digest(key, &digest);
    if (known && context != NULL && EVP_DigestVerifyInit(context, NULL, digest, NULL, key) == 1)
        good = EVP_DigestVerify(context, signature.buf, (size_t)signature.len, message.buf,
                                (size_t)message.len) == 1;
    EVP_MD_CTX_free(context);
    X509_free(certificate);
    PyBuffer_Release(&der);
    PyBuffer_Release(&message);
    PyBuffer_Release(&signature);
    if (!known)
        return refuse("the sealing certificate's key is neither P-256 nor Ed25519");
    return good ? done() : refuse("the signature does not hold for this pod, container and key");
}

static PyMethodDef methods[] = {
    {"x25519_generate", x25519_generate, METH_VARARGS, x25519_generate_doc},
    {"x25519", x25519, METH_VARARGS, x25519_doc},
    {"hkdf_sha256", hkdf_sha256, METH_VARARGS, hkdf_sha256_doc},
    {"aes_256_gcm_open", aes_256_gcm_open, METH_VARARGS, aes_256_gcm_open_doc},
    {"check_leaf", check_leaf, METH_VARARGS, check_leaf_doc},
    {"verify", verify, METH_VARARGS, verify_doc},
    {NULL, NULL, 0, NULL},
};

int
cloudtaser_add_crypto(PyObject *module)
{
    return PyModule_AddFunctions(module, methods);
}
