package httpapi

import (
	"net/http"

	"github.com/gin-gonic/gin"
)

// AddHealth answers /livez, /healthz and /readyz on the API's own port too: who looks after the API often sees no other.
func (a *API) AddHealth(routes func(*http.ServeMux)) {
	mux := http.NewServeMux()
	routes(mux)
	for _, path := range []string{"/livez", "/healthz", "/readyz"} {
		a.engine.GET(path, gin.WrapH(mux))
	}
}
