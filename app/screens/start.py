import streamlit as st
def page():
    st.title("Start", anchor=False)
    import theme; from parallel_core.trace import Kind
    theme.lead("hello lead"); theme.badge(Kind.MODELLED, "modelled: x, y")
    c = st.components.v2.component("t", js="export default function(a){const d=document.createElement('div');d.textContent='v2 ok '+a.data.x;a.parentElement.appendChild(d)}")
    c(key="t", data={"x": 3})
    import plotly.graph_objects as go
    st.plotly_chart(go.Figure(go.Bar(x=[1,2],y=[3,4])))
    st.number_input("a",1,5,key="dp",bind="query-params")
