package httpapi

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/gin-gonic/gin"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"leafcutter/ingest-api/internal/catalogue"
	"leafcutter/ingest-api/internal/problem"
	"leafcutter/ingest-api/internal/submission"
	"leafcutter/ingest-api/internal/upload"
	"leafcutter/schemas"
	"leafcutter/schemas/api"
)

// maxJSON bounds a submission by reference, in bytes.
const maxJSON = 64 << 10

func (a *API) uploadRoutes() {
	a.engine.POST("/v1/documents", a.submit)
	a.documentSubmit()
}

// submit is POST /v1/documents: a form with a file, or JSON that says where the document lies.
func (a *API) submit(c *gin.Context) {
	var d schemas.DocumentSubmitted
	var err error
	if mediaType, _, _ := mime.ParseMediaType(c.GetHeader("Content-Type")); mediaType == "application/json" {
		d, err = a.refer(c)
	} else {
		d, err = a.receive(c, (*upload.Form).Options)
	}
	a.count(c, d, err)
	if err != nil {
		refuse(c, err)
		return
	}
	links := api.LinksOf(d.DocumentID)
	c.Header("Location", links.Self)
	c.JSON(http.StatusAccepted, api.Accepted{
		DocumentID: d.DocumentID, State: schemas.Queued, Title: catalogue.Title(d), Bytes: d.Bytes, SHA256: d.SHA256,
		SubmittedAt: d.SubmittedAt, Links: links,
	})
}

// receive takes a form, whose fields options makes into a submission.
func (a *API) receive(c *gin.Context, options func(*upload.Form) (schemas.DocumentSubmitted, error)) (d schemas.DocumentSubmitted, err error) {
	key, err := keyOf(c)
	if err != nil {
		return d, err
	}
	ctx := c.Request.Context()
	leave, err := a.Spool.Enter(ctx)
	if err != nil {
		return d, problem.From(err, "Waiting for a place to receive the upload")
	}
	defer leave()
	asked := func(f *upload.Form) (err error) {
		if d, err = options(f); err == nil {
			err = a.canDo(d)
		}
		return err
	}
	form, err := a.Spool.ReadForm(c.Request, a.cfg.MaxUpload, asked)
	if err != nil {
		return d, problem.From(err, "Receiving the upload")
	}
	defer func() { err = errors.Join(err, form.Close()) }()
	if err := asked(form); err != nil {
		return d, err
	}
	return a.Desk.Upload(ctx, d, form.Type, form.File, key)
}

// refer takes the JSON form of a submission.
func (a *API) refer(c *gin.Context) (schemas.DocumentSubmitted, error) {
	var d schemas.DocumentSubmitted
	key, err := keyOf(c)
	if err != nil {
		return d, err
	}
	if d, err = decodeReference(http.MaxBytesReader(c.Writer, c.Request.Body, maxJSON)); err != nil {
		return d, err
	}
	if err := a.canDo(d); err != nil {
		return d, err
	}
	return a.Desk.Refer(c.Request.Context(), d, key)
}

// decodeReference reads and checks a submission by reference. As in a form, a field that nobody knows is refused, for it
// is a misspelt wish; so is one that is the server's to say.
func decodeReference(r io.Reader) (schemas.DocumentSubmitted, error) {
	var in struct {
		schemas.DocumentSubmitted
		Type string `json:"type"` // as a record on the topic has it
	}
	decoder := json.NewDecoder(r)
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&in)
	if err == nil {
		if _, more := decoder.Token(); more != io.EOF {
			err = errors.New("there is more after the object")
		}
	}
	d := in.DocumentSubmitted
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return d, problem.New(problem.MalformedUpload, "The JSON has more than %d bytes", maxJSON)
	case err != nil:
		return d, problem.Because(err, problem.MalformedUpload, "The JSON cannot be read: %.200s", strings.TrimPrefix(err.Error(), "json: "))
	case d.Source == "":
		return d, problem.Invalid(api.ProblemFault{Location: "body.source", Message: "missing; give s3://bucket/key, or send the file as multipart/form-data"})
	case d.DocumentID != "":
		return d, problem.Invalid(api.ProblemFault{Location: "body.document_id", Message: "the server names documents; use the header Idempotency-Key to choose"})
	}
	d.SHA256, d.Bytes, d.ContentType = "", 0, ""
	return d, upload.Validate(d, "body.")
}

// canDo refuses what this deployment cannot do for anybody.
func (a *API) canDo(d schemas.DocumentSubmitted) error {
	if err := a.knowsModels(d); err != nil {
		return err
	}
	return a.mayTell(d.WebhookURL)
}

// mayTell refuses a webhook that would never be sent.
func (a *API) mayTell(target string) error {
	if target == "" {
		return nil
	}
	if !a.Webhooks.Enabled() {
		return problem.New(problem.WebhooksOff, "The document is to be told of to a webhook_url, and LEAFCUTTER_WEBHOOK_SECRET is not set")
	}
	if err := a.Webhooks.Refuses(target); err != nil {
		return problem.Because(err, problem.WebhookNotAllowed, "webhook_url: %.200s", err)
	}
	return nil
}

// knowsModels refuses models that nobody has announced.
func (a *API) knowsModels(d schemas.DocumentSubmitted) error {
	for _, name := range d.ModelNames() {
		switch {
		case a.Models.Knows(name):
		case !a.Models.Complete():
			return problem.New(problem.KafkaUnavailable, "Whether there is a model %.64q is not known before the topic of models was read", name)
		default:
			return problem.New(problem.UnknownModel, "There is no model %.64q; known are %s", name, strings.Join(a.Models.Names(), ", "))
		}
	}
	return nil
}

// keyOf is the request's Idempotency-Key, within its API key.
func keyOf(c *gin.Context) (submission.Key, error) {
	values := c.Request.Header.Values("Idempotency-Key")
	if len(values) == 0 {
		return submission.Key{}, nil
	}
	key := values[0]
	fits := len(values) == 1 && key != "" && len(key) <= 255
	for _, b := range []byte(key) {
		fits = fits && b >= ' ' && b <= '~'
	}
	if !fits {
		return submission.Key{}, problem.New(problem.InvalidKey, "The Idempotency-Key has %d characters", len(key))
	}
	return submission.Key{API: c.GetString(callerKey), Idempotency: key}, nil
}

func (a *API) count(c *gin.Context, d schemas.DocumentSubmitted, err error) {
	outcome := "accepted"
	if err != nil {
		outcome = problem.From(err, "").Code
	} else {
		a.taken.Add(c.Request.Context(), d.Bytes)
	}
	a.uploads.Add(c.Request.Context(), 1, metric.WithAttributes(attribute.String("code", outcome)))
}
