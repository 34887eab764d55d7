/* Tokens: what a registry's Bearer challenge asks for is fetched from its token server (Docker's token specification:
 * GET with Basic credentials, or POST with a refresh token). Credentials go to the address that the registry names,
 * and over https alone unless the registry itself is spoken to by http. */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image/registry_priv.h"
#include "proto/json.h"

#define TOKEN_MAX 65536
#define TOKEN_ANSWER_MAX (256U << 10)

struct token_request {
    struct registry_body body;
    struct buf url, form;
};

/* One name=value, escaped, with what must stand before it. */
static void token_add(struct buf *b, const char *name, const char *value)
{
    if (!value[0])
        return;
    if (b->len > 0 && b->data[b->len - 1] != '?')
        buf_append_str(b, "&");
    buf_printf(b, "%s=", name);
    for (const unsigned char *p = (const unsigned char *)value; *p; p++)
        if (strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~", *p))
            buf_append(b, p, 1);
        else
            buf_printf(b, "%%%02X", *p);
}

static int token_verdict(struct http_job *http)
{
    struct registry_job *job = http->opaque;
    struct registry *r = job->registry;
    int rc;

    if (http->result == CURLE_OK && (http->status == 401 || http->status == 403 || http->status == 400)) {
        char reason[300], text[400];

        http_job_reason(http, reason, sizeof(reason));
        snprintf(text, sizeof(text), "its token server refuses%s: %s", r->credentials.user ? " the credentials" : "",
                 reason);
        return registry_fail_auth(r, text, &http->e);
    }
    rc = registry_job_verdict(http);
    if (rc == HTTP_AGAIN && job->auth_tries > 0) /* cannot be: 401 was dealt with */
        return registry_fail_auth(r, "its token server wants a token", &http->e);
    return rc;
}

/* Put "Bearer TOKEN" of the answer into the session. */
static int token_take(struct registry *r, struct buf *answer, struct err *e)
{
    json_object *o = NULL, *v = NULL;
    struct err ignored = { 0 };
    const char *token;
    char *text = NULL;
    int rc;

    buf_append(answer, "", 1);
    if (buf_error(answer) < 0 || proto_json_object((char *)answer->data, "token", &o, &ignored) < 0)
        return err_set(e, EPROTO, "registry %s: its token server's answer is no JSON object; try again", r->host);
    if (!json_object_object_get_ex(o, "token", &v) || !json_object_is_type(v, json_type_string))
        json_object_object_get_ex(o, "access_token", &v);
    token = v && json_object_is_type(v, json_type_string) ? json_object_get_string(v) : "";
    /* A line's end in it would begin another header. */
    if (!token[0] || strlen(token) > TOKEN_MAX ||
        strspn(token, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                      "0123456789-._~+/=") != strlen(token))
        rc = err_set(e, EPROTO, "registry %s: its token server gave no token; try again", r->host);
    else
        rc = asprintf(&text, "Bearer %s", token) < 0 ? err_set(e, ENOMEM, "out of memory") : 0;
    json_object_put(o);
    if (rc < 0)
        return rc;
    free(r->authorization);
    r->authorization = text;
    r->authorization_serial++;
    return 0;
}

/* The address and the parameters; the answer goes into t->body. */
static int token_describe(struct registry *r, const struct registry_challenge *c, struct token_request *t)
{
    const struct registry_credentials *who = &r->credentials;
    struct buf *b = who->identity_token ? &t->form : &t->url;
    char scope[REGISTRY_REPOSITORY_MAX + 64] = "";

    buf_append_str(&t->url, c->realm);
    if (!who->identity_token && !strchr(c->realm, '?'))
        buf_append_str(&t->url, "?");
    if (r->repository[0])
        snprintf(scope, sizeof(scope), "repository:%s:%s", r->repository, r->push ? "pull,push" : "pull");
    if (who->identity_token) {
        token_add(b, "grant_type", "refresh_token");
        token_add(b, "client_id", "caisson");
        token_add(b, "refresh_token", who->identity_token);
    } else if (who->user) {
        token_add(b, "account", who->user);
    }
    token_add(b, "service", c->service);
    token_add(b, "scope", scope[0] ? scope : c->scope);
    buf_append(&t->url, "", 1);
    return buf_error(&t->url) < 0 || buf_error(&t->form) < 0 ? -ENOMEM : 0;
}

static int token_run(struct registry *r, struct token_request *t, struct http_client *client, struct err *e)
{
    struct registry_job *job = &t->body.job;
    struct http_job *http = &job->http;
    char *none = r->authorization;
    int rc;

    r->authorization = NULL; /* the token server is somebody else */
    rc = registry_job_init(job, r, r->credentials.identity_token ? "POST" : "GET", (char *)t->url.data, e);
    r->authorization = none;
    if (rc < 0)
        return rc;
    snprintf(job->what, sizeof(job->what), "a token for registry %.120s", r->host);
    http->done = token_verdict;
    http->sink = registry_body_sink;
    if (r->credentials.identity_token) {
        http->body = t->form.data;
        http->body_len = t->form.len;
        http->content_type = "application/x-www-form-urlencoded";
    } else if (r->credentials.user) {
        http->authorization = registry_auth_basic(&r->credentials);
        if (!http->authorization)
            return err_set(e, ENOMEM, "out of memory");
    }
    rc = http_run(client, &http, 1, 1, e);
    return rc < 0 ? rc : token_take(r, &t->body.data, e);
}

static int token_fetch(struct registry *r, const struct registry_challenge *c, struct err *e)
{
    struct http_config config = {
        .tls_verify = !r->config.insecure, .timeout_s = r->config.timeout_s, .step = registry_step, .opaque = r
    };
    struct token_request *t = calloc(1, sizeof(*t));
    struct http_client *client = NULL;
    char dir[SYS_DIR_MAX];
    int rc;

    if (!t)
        return err_set(e, ENOMEM, "out of memory");
    config.cert_dir = registry_cert_dir(r, dir);
    buf_init(&t->url, HTTP_URL_MAX);
    buf_init(&t->form, TOKEN_MAX * 4);
    buf_init(&t->body.data, TOKEN_ANSWER_MAX);
    rc = token_describe(r, c, t);
    if (rc < 0)
        rc = err_set(e, EPROTO, "registry %s: the address of its token server is too long", r->host);
    if (rc == 0) /* of its own: this may happen in the midst of the session's requests */
        rc = http_client_new(&config, &client, e);
    if (rc == 0)
        rc = token_run(r, t, client, e);
    registry_job_done(&t->body.job);
    http_client_free(client);
    if (t->form.data)
        explicit_bzero(t->form.data, t->form.len);
    buf_done(&t->body.data);
    buf_done(&t->url);
    buf_done(&t->form);
    free(t);
    return rc;
}

int registry_authenticate(struct registry *r, const struct registry_challenge *c, struct err *e)
{
    bool plain = strncmp(r->base, "http:", 5) == 0;
    char *text;

    if (c->scheme == REGISTRY_SCHEME_BEARER) {
        if (strncmp(c->realm, "https://", 8) != 0 && !(plain && strncmp(c->realm, "http://", 7) == 0))
            return err_set(e, EPROTO, "registry %s wants credentials sent to %.200s, which is not https; not done",
                           r->host, c->realm);
        return token_fetch(r, c, e);
    }
    if (!r->credentials.user)
        return registry_fail_auth(r, "it wants a user and a password", e);
    if (r->authorization && strncmp(r->authorization, "Basic ", 6) == 0)
        return registry_fail_auth(r, "the user or the password is wrong", e);
    text = registry_auth_basic(&r->credentials);
    if (!text)
        return err_set(e, ENOMEM, "out of memory");
    free(r->authorization);
    r->authorization = text;
    r->authorization_serial++;
    return 0;
}
